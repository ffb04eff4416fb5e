"""The harness: failures become rows, the clock ticks, nothing half-written."""

import json
import multiprocessing
import os

import numpy as np
import pandas as pd
import psutil
import pytest
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.images import read_field, read_image, write_image
from tests.conftest import blobs, oblique_grid
from workflow.contract.registration import Context, Registration, check_result
from workflow.contract.shard import field_path, read_starts, register_shard, write_outcomes
from workflow.contract.worker import Worker, WorkerDiedError
from workflow.referee import boxplot, render, table1
from workflow.referee.evaluate import Rules, evaluate_shard
from workflow.referee.table1 import notes
from workflow.referee.tidy import read_metrics

PAIRS = [("cross-subject", "a", "b"), ("cross-subject", "b", "a")]
STRUCTURES = [{"name": "inner", "value": 1}, {"name": "absent", "value": 2}]
METHOD = """
import os
import numpy as np
from workflow.contract.registration import Registration
from workflow.geometry import index_grid, vector_image


def prepare(params, context):
    return {"calls": 0}


def register(fixed, moving, params, context):
    context.prepared["calls"] += 1
    first = context.prepared["calls"] == 1
    vectors = 0 * index_grid(fixed)
    BODY
    return Registration(vector_image(vectors, fixed) RESULT)
"""


@pytest.fixture
def scans(tmp_path):
    grid = oblique_grid((14, 12, 10))
    for name, seed in (("a", 1), ("b", 2)):
        image = blobs(grid, seed=seed)
        write_image(image, tmp_path / f"{name}.nii")
        write_image(sitk.Cast(image > 0.5, sitk.sitkUInt8), tmp_path / f"{name}_label.nii")
    return tmp_path


def run_shard(scans, body, limit=None, starts=None, result=""):
    """Register both directions with a method that does `body`, and gives `result` besides."""
    method = scans / "my-method"
    method.mkdir(exist_ok=True)
    (method / "register.py").write_text(METHOD.replace("BODY", body).replace(" RESULT", result))
    context = Context(1, 0, scans)
    image = lambda scan: str(scans / f"{scan}.nii")  # noqa: E731
    return register_shard(method, {"p": 1}, PAIRS, image, scans / "fields", context, limit, starts)


def test_a_method_starts_from_anothers_map_and_its_time_counts(scans, caplog):
    caplog.set_level("INFO")
    shift = "vectors[0] = 1.5"
    record = record_of(scans, run_shard(scans, shift, result=", affine=(np.eye(3), [1.5, 0, 0])"))
    assert record["registrations"][0]["affine"] == [*np.eye(3).tolist(), [1.5, 0, 0]]
    record["registrations"][0]["seconds"] = 100.0
    record["registrations"][1] |= {"status": "failed", "reason": "it diverged", "affine": None}
    field_path(scans / "fields", "b", "a").unlink()
    (scans / "start.json").write_text(json.dumps(record), encoding="utf-8")
    starts, rest = read_starts([scans / "start.json"])
    assert rest["method"] == "mine" and "registrations" not in rest
    body = "vectors[:] = 2 * np.reshape(context.start[1], (3, 1, 1, 1))"
    first, second = run_shard(scans, body, starts=starts)
    field = sitk.GetArrayFromImage(read_field(field_path(scans / "fields", "a", "b")))
    assert (field == (3, 0, 0)).all() and 100 < first.seconds < 200
    assert (second.status, second.reason) == ("failed", "its start failed: it diverged")
    assert "2/2 b <- a failed: its start failed: it diverged" in caplog.text
    assert not field_path(scans / "fields", "b", "a").exists()


def test_an_affine_map_that_is_not_the_displacement_stops_the_job(scans):
    with pytest.raises(UserError, match=r"affine is 1\.5 mm off the displacement at a corner"):
        run_shard(scans, "pass", result=", affine=(np.eye(3), [0, 1.5, 0])")


def record_of(scans, outcomes):
    circumstances = {"method": "mine", "processor": "x", "threads": 1}
    write_outcomes(scans / "outcomes.json", outcomes, circumstances)
    return json.loads((scans / "outcomes.json").read_text(encoding="utf-8"))


def score(scans, outcomes):
    """Return the metrics as the workflow reads them back."""
    labels = lambda scan: str(scans / f"{scan}_label.nii")  # noqa: E731
    record = record_of(scans, outcomes)
    table = evaluate_shard(record, scans / "fields", labels, Rules(STRUCTURES, 2))
    table.to_csv(scans / "metrics.csv", index=False)
    return read_metrics(scans / "metrics.csv")


FAILS_ONCE = 'if first: raise RuntimeError("diverged\\nbadly")'


def test_a_failed_pair_is_a_row_with_its_reason(scans):
    outcomes = run_shard(scans, FAILS_ONCE)
    assert [o.status for o in outcomes] == ["failed", "ok"]
    assert outcomes[0].reason == "RuntimeError: diverged badly" and outcomes[0].seconds is None
    assert not field_path(scans / "fields", "a", "b").exists()
    assert read_field(field_path(scans / "fields", "b", "a")).GetSize() == (14, 12, 10)

    table = score(scans, outcomes)
    counts = table.groupby(["fixed", "moving"]).size()
    assert counts["a", "b"] == counts["b", "a"] == 18
    failed = table[table["fixed"] == "a"]
    assert failed["value"].isna().all()
    assert set(failed["reason"]) == {"RuntimeError: diverged badly"}
    done = table[table["fixed"] == "b"].set_index(["label", "metric"])["value"]
    assert 0 < done["inner", "dice"] < 1 and np.isnan(done["absent", "dice"])
    assert np.isnan(done["mean", "dice"]), "the mean of an absent structure is not the others' mean"
    assert np.isnan(done["all", "symmetry"]) and done["all", "seconds"] > 0


def test_failures_are_counted_and_never_averaged(scans):
    outcomes = run_shard(scans, FAILS_ONCE)
    metrics = score(scans, outcomes)
    chosen = (metrics["label"] == "mean") & (metrics["metric"] == "dice")
    metrics.loc[chosen, "value"] = [np.nan, 0.5]
    method = {
        "id": "mine", "label": "Mine", "kind": "classical", "paper_row": None,
        "starts_from": "first", "params": {"p": 2}, "defaults": {"p": 1},
    }  # fmt: skip
    paper = pd.DataFrame({"row": ["x"], "seconds": [1]})
    records = [record_of(scans, outcomes)]
    table = table1.compute(metrics, [method], ["cross-subject"], records, paper)
    row = table.iloc[0]
    assert (row["cross-subject dice"], row["cross-subject n"], row["cross-subject N"]) == (50, 1, 2)
    assert (row["device"], row["threads"]) == ("x", "1")
    text = table1.formatted(table)
    lines = notes(metrics, [method], table, [14, 12, 10], images=[True, False])
    assert "Images: those of 1 of 2 scans are simulated from label maps." in lines
    assert "Mine: 1 pair(s) failed: RuntimeError: diverged badly" in lines
    assert "Mine: p 2 (default 1)." in lines
    assert any(note.startswith("Mine: from the affine map of first, which") for note in lines)
    assert any(note.endswith("cores. x, 1 thread.") for note in lines)
    assert "| Mine | 50.00 (0.00) | 0 | 0 | 1/2 |" in render.markdown({"": text}, lines)
    tex = render.latex({"": text}, ["50 % of [1] & more"])
    assert r"Mine & 50.00 (0.00) & 0 & 0 & 1/2 &" in tex
    assert r"50 \% of {[}1{]} \& more \\" in tex


def test_the_papers_columns_stand_where_its_numbers_are_given(scans):
    metrics = score(scans, run_shard(scans, "pass"))
    method = {"id": "mine", "label": "Mine", "paper_row": "x", "starts_from": "", "params": {},
              "defaults": {}}  # fmt: skip
    paper = pd.DataFrame({"row": ["x"], "cross-subject dice": [7.0], "seconds": [123]})
    for given in (paper, None):
        table = table1.compute(metrics, [method], ["cross-subject"], [], given)
        text = render.markdown(
            {"": table1.formatted(table)}, notes(metrics, [method], table, [14, 12, 10])
        )
        for shown in ("| Paper: time (s) |", "| 123.00 |", "- Paper: Shen", "diag. |", "Diag.: "):
            assert (shown in text) == (given is not None), shown


def test_an_undefined_dice_is_no_failure(scans):
    metrics = score(scans, run_shard(scans, "pass"))
    method = {"id": "mine", "label": "Mine", "paper_row": None, "starts_from": "",
              "params": {}, "defaults": {}}  # fmt: skip
    paper = pd.DataFrame({"row": ["x"], "seconds": [1]})
    table = table1.compute(metrics, [method], ["cross-subject"], [], paper)
    assert table.loc[0, "cross-subject n"] == 2 and np.isnan(table.loc[0, "cross-subject dice"])
    lines = notes(metrics, [method], table, [14, 12, 10])
    assert "Mine: 2 pair(s) without Dice: a structure in neither map." in lines


def test_controls_and_infinite_values_are_not_drawn_for_symmetry(scans):
    metrics = score(scans, run_shard(scans, "pass"))
    method = {"id": "mine", "label": "Mine", "kind": "control"}
    assert boxplot.compute("7", metrics, [method], ["cross-subject"]).empty
    method["kind"] = "classical"
    assert np.isfinite(boxplot.compute("7", metrics, [method], ["cross-subject"])["symmetry"]).all()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("vectors[0, 0, 0, 0] = np.nan", "displacement has values that are not finite"),
        ("os.abort()", "the method's process ended by signal SIGABRT"),
        ("os._exit(3)", "the method's process ended by status 3"),
        ('raise ValueError(f"no {context.folder}/a.nii")', "ValueError: no a.nii"),
    ],
)
def test_every_kind_of_failure_costs_its_pairs_only(scans, body, reason):
    outcomes = run_shard(scans, f"if fixed.GetOrigin(): {body}")
    assert [o.reason for o in outcomes] == [reason, reason]


def test_a_program_that_hangs_is_stopped_and_costs_its_pair_only(scans):
    pid = scans / "pid"
    body = f"""
    if not os.path.exists("{pid}"):
        context.run("sh", "-c", "echo $$ > {pid}; exec sleep 300")"""
    outcomes = run_shard(scans, body, limit=6)  # the other pair takes some 20 ms
    assert outcomes[0].reason.startswith("took more than 0.1 min") and outcomes[1].reason == ""
    number = int(pid.read_text(encoding="utf-8"))
    running = psutil.pid_exists(number) and psutil.Process(number).status()
    assert running in (False, psutil.STATUS_ZOMBIE)


def test_a_field_off_the_grid_stops_the_job(scans):
    with pytest.raises(UserError, match="a__b: displacement is not on the fixed grid"):
        run_shard(scans, "fixed = fixed[:-1]; vectors = vectors[..., :-1]")
    assert not multiprocessing.active_children()


def test_a_damaged_image_stops_the_job(scans):
    """No process stays behind: the job would wait for it for ever."""
    path = scans / "b.nii"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"b\.nii: cannot be read as an image"):
        run_shard(scans, "pass")
    assert not multiprocessing.active_children()


def test_a_method_that_cannot_be_loaded_stops_the_job(scans):
    method = scans / "broken"
    method.mkdir()
    (method / "register.py").write_text("import no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as caught:
        register_shard(method, {}, PAIRS, str, scans / "fields", Context(1, 0, scans))
    assert 'register.py", line 1' in "".join(caught.value.__notes__)


def test_an_error_that_only_the_method_knows_is_passed_on_as_text(scans):
    """Its class is in a module that this process never imported, and takes two arguments."""
    method = scans / "own"
    method.mkdir()
    (method / "register.py").write_text(
        "class OwnError(Exception):\n"
        "    def __init__(self, what, why):\n"
        "        super().__init__(f'{what}: {why}')\n"
        "def prepare(params, context):\n"
        "    raise OwnError('weights', 'none here')\n"
        "def register(fixed, moving, params, context):\n"
        "    pass\n"
    )
    with pytest.raises(UserError, match="OwnError: weights: none here") as caught:
        register_shard(method, {}, PAIRS, str, scans / "fields", Context(1, 0, scans))
    assert 'register.py", line 5, in prepare' in str(caught.value)


def test_a_displacement_that_is_no_image_stops_the_job(scans):
    with pytest.raises(UserError, match="a__b: displacement is a ndarray, expected a Simple"):
        check_result(Registration(np.zeros((3, 4, 5, 6))), oblique_grid(), "a__b")


def test_scratch_folders_are_private_and_removed(scans):
    body = """
    assert not list(context.folder.iterdir())
    context.run("sh", "-c", "echo $OMP_NUM_THREADS $ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS > kept")
    text = (context.folder / "kept").read_text(encoding="utf-8")
    assert text == "1 1\\n", text
    with open(params["out"] if "out" in params else os.environ["SEEN"], "a") as seen:
        seen.write(f"{context.folder}\\n")"""
    seen = scans / "seen.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEN", str(seen))
        outcomes = run_shard(scans, body)
    assert [o.reason for o in outcomes] == ["", ""]
    folders = seen.read_text(encoding="utf-8").split()
    assert len(set(folders)) == 2 and not any(map(os.path.exists, folders))


def test_worker_keeps_its_state_and_passes_on_exceptions():
    worker = Worker(lambda: [10])
    assert worker.call(list.__getitem__, 0) == 10
    with pytest.raises(IndexError):
        worker.call(list.__getitem__, 1)
    worker.call(list.append, 5)
    assert worker.call(len) == 2
    worker.close()
    with pytest.raises(ZeroDivisionError):
        Worker(lambda: 1 / 0)
    with pytest.raises(WorkerDiedError, match="status 4"):
        Worker(lambda: os._exit(4))


def test_images_are_written_aside_first(tmp_path, monkeypatch):
    image = oblique_grid((5, 5, 5))
    write_image(image, tmp_path / "whole.nii")
    before = (tmp_path / "whole.nii").read_bytes()

    def broken(image, path, **options):
        with open(path, "wb") as stream:  # noqa: PTH123
            stream.write(before[:100])
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", broken)
    with pytest.raises(RuntimeError, match="disk full"):
        write_image(image, tmp_path / "whole.nii")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.nii"]
    assert (tmp_path / "whole.nii").read_bytes() == before


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_a_file_cut_short_is_refused(tmp_path, suffix):
    """ITK alone would read a shortened NIfTI file and fill it with zeros."""
    path = tmp_path / f"image{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (10, 12, 14)).astype(np.uint8)
    write_image(sitk.GetImageFromArray(noise), path)
    assert read_image(path).GetSize() == (14, 12, 10)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(path)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "image.nii.gz"
    noise = np.random.default_rng(0).integers(0, 255, (10, 12, 14)).astype(np.uint8)
    write_image(sitk.GetImageFromArray(noise), path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(path)


def test_dicom_series_are_read(tmp_path):
    """One series in a folder is read with its geometry; two are refused."""
    image = sitk.Cast(blobs(oblique_grid((8, 9, 5))) * 1000, sitk.sitkInt16)
    image.SetDirection(np.eye(3).ravel())
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for series in (1, 2):
        for k in range(image.GetDepth()):
            piece = image[:, :, k]
            position = image.TransformIndexToPhysicalPoint((0, 0, k))
            for tag, value in {
                "0020|000e": f"1.2.3.{series}", "0020|0013": str(k), "0008|0060": "MR",
                "0020|0032": "\\".join(map(str, position)), "0020|0037": "1\\0\\0\\0\\1\\0",
                "0008|0018": f"1.2.3.{series}.{k}", "0018|0050": "0.9",
            }.items():  # fmt: skip
                piece.SetMetaData(tag, value)
            writer.SetFileName(str(tmp_path / f"{series}-{k}.dcm"))
            writer.Execute(piece)
        if series == 1:
            found = read_image(tmp_path)
            np.testing.assert_array_equal(
                sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(image)
            )
            np.testing.assert_allclose(found.GetSpacing(), image.GetSpacing(), atol=1e-4)
            np.testing.assert_allclose(found.GetOrigin(), image.GetOrigin(), atol=1e-3)
    with pytest.raises(UserError, match="found 2 DICOM series, expected exactly one"):
        read_image(tmp_path)
