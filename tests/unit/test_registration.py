"""The harness: failures become rows, the clock ticks, nothing half-written."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from tests.conftest import blobs, oblique_grid
from workflow.contract.registration import (
    Context,
    Registration,
    field_path,
    register_shard,
    write_outcomes,
)
from workflow.errors import ContractError, DataError
from workflow.geometry import index_grid, vector_image
from workflow.images import read_image, write_image
from workflow.referee import render, table1
from workflow.referee.evaluate import evaluate_shard

PAIRS = [("cross-subject", "a", "b"), ("cross-subject", "b", "a")]
STRUCTURES = [{"name": "inner", "value": 1}, {"name": "absent", "value": 2}]


@pytest.fixture
def scans(tmp_path):
    grid = oblique_grid((14, 12, 10))
    for name, seed in (("a", 1), ("b", 2)):
        image = blobs(grid, seed=seed)
        write_image(image, tmp_path / f"{name}.nii")
        write_image(sitk.Cast(image > 0.5, sitk.sitkUInt8), tmp_path / f"{name}_label.nii")
    return tmp_path


def zero(fixed):
    return vector_image(0 * index_grid(fixed), fixed)


def run_shard(scans, register):
    return register_shard(
        SimpleNamespace(register=register),
        {"p": 1},
        PAIRS,
        lambda scan: str(scans / f"{scan}.nii"),
        scans / "fields",
        lambda folder: Context(1, 0, folder),
    )


def score(scans, outcomes):
    circumstances = {"method": "mine", "device": "x", "threads": 1}
    write_outcomes(scans / "outcomes.json", outcomes, circumstances)
    record = json.loads((scans / "outcomes.json").read_text())
    labels = lambda scan: str(scans / f"{scan}_label.nii")  # noqa: E731
    return evaluate_shard(record, scans / "fields", labels, STRUCTURES, 2)


def fails_once(fixed, moving, params, context):
    if not fails_once.done:
        fails_once.done = True
        raise RuntimeError("diverged\nbadly")
    return Registration(zero(fixed), moving)


def test_a_failed_pair_is_a_row_with_its_reason(scans):
    fails_once.done = False
    outcomes = run_shard(scans, fails_once)
    assert [o.status for o in outcomes] == ["failed", "ok"]
    assert outcomes[0].reason == "RuntimeError: diverged badly" and outcomes[0].seconds is None
    assert not field_path(scans / "fields", "a", "b").exists()
    assert read_image(field_path(scans / "fields", "b", "a")).GetSize() == (14, 12, 10)

    table = score(scans, outcomes)
    counts = table.groupby(["fixed", "moving"]).size()
    assert counts["a", "b"] == counts["b", "a"] == 8
    failed = table[table["fixed"] == "a"]
    assert (
        failed["value"].isna().all() and (failed["reason"] == "RuntimeError: diverged badly").all()
    )
    done = table[table["fixed"] == "b"].set_index(["label", "metric"])["value"]
    assert 0 < done["inner", "dice"] < 1 and np.isnan(done["absent", "dice"])
    assert np.isnan(done["mean", "dice"]), "the mean of an absent structure is not the others' mean"
    assert np.isnan(done["all", "symmetry"]) and done["all", "seconds"] > 0


def test_failures_are_counted_and_never_averaged(scans):
    fails_once.done = False
    metrics = score(scans, run_shard(scans, fails_once))
    metrics.loc[metrics["label"] == "mean", "value"] = [np.nan, 0.5]
    method = {
        "id": "mine", "label": "Mine", "paper_row": None, "params": {"p": 2}, "defaults": {"p": 1},
    }  # fmt: skip
    # Read back as the workflow does: an empty reason becomes NaN.
    metrics["reason"] = metrics["reason"].replace("", np.nan)
    paper = pd.DataFrame({"row": ["x"], "seconds": [1]})
    table = table1.summarise(metrics, [method], ["cross-subject"], paper)
    row = table.iloc[0]
    assert (row["cross-subject dice"], row["cross-subject n"], row["cross-subject N"]) == (50, 1, 2)
    notes = table1.notes(metrics, [method], [str(scans / "outcomes.json")], [14, 12, 10])
    assert "Mine: 1 pair(s) failed: RuntimeError: diverged badly" in notes
    assert "Mine: p 2 (default 1)." in notes
    assert any(note.endswith("on x, 1 thread.") for note in notes)
    text = render.markdown(table, notes)
    assert "| Mine | 50.00 (0.00) | 0 |" in text and "| 1/2 |" in text
    assert r"50.00 (0.00) & 0 &" in render.latex(table, notes)


def test_a_field_that_is_not_finite_is_a_failure(scans):
    def register(fixed, moving, params, context):
        vectors = 0 * index_grid(fixed)
        vectors[0, 0, 0, 0] = np.nan
        return Registration(vector_image(vectors, fixed), moving)

    outcomes = run_shard(scans, register)
    assert {o.reason for o in outcomes} == {"displacement has values that are not finite"}


def test_a_field_off_the_grid_stops_the_job(scans):
    def register(fixed, moving, params, context):
        return Registration(zero(fixed[:-1]), moving)

    with pytest.raises(ContractError, match="a__b: displacement is not on the fixed grid"):
        run_shard(scans, register)


def test_scratch_folders_are_private_and_removed(scans):
    seen = []

    def register(fixed, moving, params, context):
        assert not list(context.folder.iterdir())
        context.run("sh", "-c", "echo hello > kept")
        seen.append(context.folder)
        return Registration(zero(fixed), moving)

    assert {o.status for o in run_shard(scans, register)} == {"ok"}
    assert len(set(seen)) == 2 and not any(folder.exists() for folder in seen)


def test_images_are_written_aside_first(tmp_path, monkeypatch):
    image = oblique_grid((5, 5, 5))
    write_image(image, tmp_path / "whole.nii")
    before = (tmp_path / "whole.nii").read_bytes()

    def broken(image, path):
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
    with pytest.raises(DataError, match="cannot be read as an image"):
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
    with pytest.raises(DataError, match="found 2 DICOM series, expected exactly one"):
        read_image(tmp_path)
