"""The command line: help, errors, training and registration end to end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from avsm.cli import main
from avsm.images import read_image
from tests.oai import knee, write_series
from tests.unit.avsm.knees import tiny_recipe, write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def settings() -> list[str]:
    """Give the options that make ``small`` the tiny recipe."""
    recipe = tiny_recipe(epochs=1, batches=1).to_dict()
    changed = {name: recipe[name] for name in ("model", "affine", "momentum")}
    return [f"--set={name}={json.dumps(value)}" for name, value in changed.items()]


@pytest.fixture(scope="module")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command = ["train", str(cohort), "--out", str(folder), "--device", "cpu", *settings()]
    assert main(command) == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["train", "register", "CVPR 2019"]),
        (["train", "--help"], ["subject", "split", "presets", "examples", "--minutes", "resume"]),
        (["register", "--help"], ["FIXED", "--refine", "mm", "examples", "Slicer"]),
    ],
)
def test_help(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words)


def test_train_then_register(cohort: Path, trained: Path, tmp_path: Path) -> None:
    fixed, moving = (str(cohort.parent / f"s{n}_v0_image.nii") for n in (4, 5))
    warped, field = tmp_path / "new" / "warped.nii.gz", tmp_path / "field.mha"
    command = ["register", fixed, moving, "--model", str(trained)]
    command += ["--out", str(warped), "--transform", str(field), "--device", "cpu"]
    assert main([*command, "--affine-steps", "2", "--refine", "2"]) == 0
    assert main([*command, "--steps", "1", "--refine", "2"]) == 2  # it starts from one step
    u = sitk.ReadImage(str(field), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(u)
    image = sitk.ReadImage(moving)
    lowest = float(sitk.GetArrayFromImage(image).min())
    expected = sitk.Resample(image, sitk.ReadImage(fixed), transform, sitk.sitkLinear, lowest)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(warped)))
    np.testing.assert_allclose(found, sitk.GetArrayFromImage(expected), atol=1e-5)


def test_raw_scans_are_prepared_and_trained_on(
    cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    raw = tmp_path / "raw"
    shutil.copytree(cohort.parent, raw)
    for path in raw.glob("*_image.nii"):
        sitk.WriteImage(sitk.Cast(700 * sitk.ReadImage(str(path)), sitk.sitkInt16), str(path))
    command = ["train", str(raw / cohort.name), "--out", str(tmp_path / "m"), "--device", "cpu"]
    assert main([*command, *settings()]) == 2
    assert "expected intensities in [0, 1]" in caplog.text and "--size" in caplog.text
    assert main([*command, "--size", "18,16,20", *settings()]) == 0
    assert "scans prepared" in caplog.text
    assert "momentum: 1 epochs; validation Dice" in caplog.text
    fixed, moving = (str(raw / f"s{n}_v0_image.nii") for n in (4, 5))
    command = ["register", fixed, moving, "--model", str(tmp_path / "m"), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "w.nii")]) == 0


def test_register_without_a_model_then_warp_and_points(cohort: Path, tmp_path: Path) -> None:
    fixed, moving = (str(cohort.parent / f"s{n}_v0_image.nii") for n in (4, 5))
    field, label = str(tmp_path / "field.nii.gz"), str(cohort.parent / "s5_v0_label.nii")
    command = ["register", fixed, moving, "--transform", field, "--device", "cpu", "--steps", "0"]
    assert main([*command, "--size", "16,16,16"]) == 0
    u = sitk.ReadImage(field, sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(sitk.Image(u))
    moved = tmp_path / "label.nii.gz"
    command = ["warp", label, "--transform", field, "--label", "--out", str(moved)]
    assert main([*command, "--reference", moving]) == 0
    expected = sitk.Resample(
        sitk.ReadImage(label), sitk.ReadImage(moving), transform, sitk.sitkNearestNeighbor
    )
    found = sitk.ReadImage(str(moved))
    assert found.GetPixelID() == expected.GetPixelID()
    assert (sitk.GetArrayFromImage(found) == sitk.GetArrayFromImage(expected)).all()
    points, there, back = (tmp_path / f"{name}.csv" for name in ("points", "there", "back"))
    middle = u.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in u.GetSize()])
    ras = [-middle[0], -middle[1], middle[2]]
    points.write_text(f"name,x,y,z\nmiddle,{ras[0]},{ras[1]},{ras[2]}\n")
    options = ["--transform", field, "--frame", "ras"]
    assert main(["points", str(points), "--out", str(there), *options]) == 0
    assert main(["points", str(there), "--out", str(back), "--inverse", *options]) == 0
    name, *found = there.read_text().splitlines()[1].split(",")
    x, y, z = transform.TransformPoint(middle)
    assert name == "middle"
    np.testing.assert_allclose([float(v) for v in found], [-x, -y, z], atol=1e-3)
    np.testing.assert_allclose([float(v) for v in back.read_text().split(",")[4:]], ras, atol=0.01)


def test_pairs_are_registered_by_one_model(
    cohort: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder, pairs = tmp_path / "out", cohort.with_name("pairs.csv")
    flat = sitk.Image((20, 20, 20), sitk.sitkFloat32)
    sitk.WriteImage(flat, str(cohort.with_name("flat.nii")))
    rows = ["s4_v0_image.nii,s5_v0_image.nii,a", "flat.nii,s5_v0_image.nii,b"]
    pairs.write_text("\n".join(["fixed,moving,name", *rows]) + "\n")
    command = ["register", "--pairs", str(pairs), "--model", str(trained), "--out", str(folder)]
    assert main([*command, "--device", "cpu"]) == 2
    assert "1 of 2 pairs were not registered" in caplog.text
    assert "flat.nii and" in caplog.text and "not constant" in caplog.text
    assert {p.name for p in folder.iterdir()} == {"a_warped.nii.gz", "a_field.nii.gz"}
    pairs.write_text("\n".join(["fixed,moving,name", rows[0]]) + "\n")
    assert main([*command, "--device", "cpu"]) == 0
    assert "1 of 1 pairs are there already" in caplog.text
    pairs.write_text("\n".join(["fixed,moving,name", rows[0], rows[0], "x.nii,flat.nii,"]) + "\n")
    assert main(command) == 2
    assert "line 3: name 'a': expected one of its own" in caplog.text
    assert f"line 4: {cohort.parent / 'x.nii'}: no such file" in caplog.text


def test_info_says_how_a_model_was_trained(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(trained)]) == 0
    text = capsys.readouterr().out
    for part in ("affine and momentum, trained", "16x18x20 voxels (x, y, z)", "Dice 0."):
        assert part in text
    assert main(["info", "knee"]) == 0
    assert "40x96x96 voxels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["warp", "s4_v0_image.nii", "--transform", "s5_v0_image.nii"],
            "3 components, found 3 and 1",
        ),
        (["points", "manifest.csv", "--transform", "gone.nii"], "no column 'x'"),
        (["points", "p.csv", "--transform", "gone.nii"], "line 3: expected three numbers"),
        (
            ["register", "s4_v0_image.nii", "--out", "w.nii"],
            "expected FIXED and MOVING, or --pairs",
        ),
        (["register", "--pairs", "p.csv"], "expected --out FOLDER"),
        (["register", "--pairs", "none.csv", "--out", "x"], "none.csv: found no pair"),
        (["register", "a.nii", "b.nii", "--out", "b.nii"], "b.nii: is to be written, and is an"),
        (
            ["register", "a.nii", "b.nii", "--out", "c.nii", "--transform", "c.nii"],
            "another output",
        ),
        (
            ["points", "long.csv", "--transform", "gone.nii"],
            "line 2: found 4 values, expected 3",
        ),
        (["register", "a.nii", "b.nii", "--size", "9,x", "--out", "w.nii"], "such as 96,96,40"),
    ],
)
def test_wrong_use_of_transforms(
    cohort: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(cohort.parent)
    Path("p.csv").write_text("x,y,z\n1,2,3\n1,two,3\n")
    Path("none.csv").write_text("fixed,moving\n")
    Path("long.csv").write_text("x,y,z\n1,2,3,four\n")
    out = [] if command[0] == "register" else ["--out", "new.nii"]
    assert main([*command, *out]) == 2
    assert message in caplog.text
    assert not Path("new.nii").exists()


def test_training_again_goes_on_where_it_was(
    cohort: Path, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    command = ["train", str(cohort), "--out", str(trained), "--device", "cpu", *settings()]
    assert main(command) == 0
    assert "affine: go on after epoch 1" in caplog.text
    assert "best weights" in caplog.text


def test_python_m_avsm_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "avsm", "train", "none.csv", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none.csv: no such file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "papr"], "did you mean 'paper'"),
        (["--task", "longitudnal"], "did you mean 'longitudinal'"),
        (["--stage", "afine"], "did you mean 'affine'"),
        (["--set", "afine.rate=1"], "did you mean 'affine.rate'"),
        (["--set", "affine.rate"], "expected NAME=VALUE"),
        (["--labels", "two"], "expected numbers such as 2,4"),
        (["--labels", "9"], "none has [9], found the values [0, 1]"),
        (["--device", "cuda:0"], "device: expected one of this machine"),
        (["--device", "gpu"], "device: expected one of auto"),
        (["--start", "none.pt"], "none.pt: no such file or folder"),
    ],
)
def test_wrong_training_options(
    cohort: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    options: list[str],
    message: str,
) -> None:
    assert main(["train", str(cohort), "--out", str(tmp_path), *options]) == 2
    assert message in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--out": "warped.txt"}, "warped.txt: expected a name that ends in"),
        ({"--out": None}, "nothing to write"),
        ({"fixed": "gone.nii"}, "gone.nii: no such file"),
        ({"--model": "gone"}, "gone: no such file or folder"),
        ({"--model": None, "--affine-steps": "3"}, "without a model the pair is optimised"),
        ({"fixed": "manifest.csv"}, "manifest.csv: cannot be read as an image"),
    ],
)
def test_wrong_registrations(
    cohort: Path,
    trained: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str | None],
    message: str,
) -> None:
    monkeypatch.chdir(cohort.parent)
    options = {"--out": str(tmp_path / "warped.nii"), "--model": str(trained)} | changed
    fixed = options.pop("fixed", "s4_v0_image.nii")
    flags = [part for name, value in options.items() if value for part in (name, value)]
    assert main(["register", str(fixed), "s5_v0_image.nii", *flags]) == 2
    assert message in caplog.text


def test_wrong_numbers_are_argparse_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["register", "a.nii", "b.nii", "--model", "m", "--affine-steps", "0"])
    assert stop.value.code == 2
    assert "expected at least 1, found 0" in capsys.readouterr().err


def test_functions_are_at_hand_when_first_used(tmp_path: Path) -> None:
    code = (
        "import sys, avsm; assert 'torch' not in sys.modules; "
        "print(*(callable(getattr(avsm, name)) for name in avsm.AT_HAND)); avsm.nothing"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert set(done.stdout.split()) == {"True"}
    assert "module 'avsm' has no attribute 'nothing'" in done.stderr


def test_a_dicom_folder_is_registered_and_what_is_outside_is_chosen(tmp_path: Path) -> None:
    """A uniform shift by half the width: what it uncovers has the value asked for."""
    image = knee(1, (18, 20, 16))
    write_series(image, tmp_path / "series")
    moving, field, out = (str(tmp_path / f"{name}.nii") for name in ("moving", "field", "out"))
    sitk.WriteImage(image, moving)
    command = ["register", str(tmp_path / "series"), moving, "--transform", field, "--steps", "0"]
    assert main([*command, "--out", out, "--device", "cpu", "--size", "16,16,16"]) == 0
    assert read_image(out).GetSize() == read_image(tmp_path / "series").GetSize()
    vectors = np.zeros((*image.GetSize()[::-1], 3))
    vectors[..., :] = image.GetDirection()[0::3]
    shift = sitk.GetImageFromArray(vectors * 9 * image.GetSpacing()[0], isVector=True)
    shift.CopyInformation(image)
    sitk.WriteImage(shift, field)
    lowest = float(sitk.GetArrayViewFromImage(image).min())
    for options, value in (([], lowest), (["--outside", "-7"], -7), (["--label"], 0)):
        assert main(["warp", moving, "--transform", field, "--out", out, *options]) == 0
        found = sitk.GetArrayFromImage(sitk.ReadImage(out))
        assert (found[:, :, 9:] == value).all()
        expected = sitk.GetArrayFromImage(image)[:, :, 9:]
        np.testing.assert_allclose(found[:, :, :9], expected, atol=1e-2)
    bad = ["warp", moving, "--transform", field, "--out", out, "--label", "--outside", "-7"]
    assert main(bad) == 2  # which an unsigned label map cannot hold


def test_register_shows_the_value_outside_that_is_asked_for(tmp_path: Path) -> None:
    """Of a moving image that is half of the fixed one."""
    image = knee(1, (24, 20, 18))
    fixed, moving, out = (str(tmp_path / f"{name}.nii") for name in ("fixed", "moving", "out"))
    sitk.WriteImage(image, fixed)
    sitk.WriteImage(image[6:-6], moving)
    command = ["register", fixed, moving, "--out", out, "--steps", "0", "--size", "16,16,16"]
    assert main([*command, "--device", "cpu", "--outside", "-7"]) == 0
    found = sitk.GetArrayFromImage(sitk.ReadImage(out))
    assert (found == -7).any() and (found >= 0).any()


def test_outputs_that_cannot_be_are_refused_before_all_else(tmp_path: Path, caplog) -> None:
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "file").touch()
    for out, message in (
        (".", "expected a name that ends in"),
        (tmp_path / "folder.nii", "folder.nii: is a folder, expected the name of a file"),
        (tmp_path / "file" / "a.nii", "a.nii: its folder cannot be made"),
    ):
        assert main(["register", "gone.nii", "gone.nii", "--out", str(out)]) == 2
        assert message in caplog.text


def test_warp_warns_of_what_is_hardly_meant(tmp_path: Path, caplog) -> None:
    image, away, label, field = (tmp_path / f"{name}.nii" for name in ("i", "a", "l", "f"))
    sitk.WriteImage(scan := knee(1, (18, 20, 16)), str(image))
    sitk.WriteImage(scan > 100, str(label))
    zero = sitk.GetImageFromArray(np.zeros((*scan.GetSize()[::-1], 3)), isVector=True)
    zero.CopyInformation(scan)
    sitk.WriteImage(zero, str(field))
    scan.SetOrigin((900, 0, 0))
    sitk.WriteImage(scan, str(away))
    for path, options, warning in (
        (image, [], None),
        (label, ["--label"], None),
        (label, [], f"{label}: found few values"),
        (away, [], f"shows nothing of {away}"),
    ):
        caplog.clear()
        command = ["warp", str(path), "--transform", str(field), "--out", str(tmp_path / "w.nii")]
        assert main([*command, *options]) == 0
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [warning in line for line in found] == ([] if warning is None else [True])


def test_no_output_goes_over_an_input_or_another_output(cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(cohort.parent, folder)
    fixed, moving = (folder / f"s{n}_v0_image.nii" for n in (4, 5))
    link, same = folder / "link.nii", str(tmp_path / "x.nii")
    link.symlink_to(moving.name)
    pairs = folder / "pairs.csv"
    shutil.copy(fixed, folder / "a_warped.nii.gz")
    pairs.write_text(f"fixed,moving,name\n{fixed.name},a_warped.nii.gz,a\n")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    register = ["register", str(fixed), str(moving), "--device", "cpu", "--out"]
    for command in (
        [*register, same, "--transform", f"{tmp_path}/mine/../x.nii"],
        [*register, str(link)],
        ["warp", str(moving), "--transform", str(fixed), "--out", str(link)],
        ["register", "--pairs", str(pairs), "--out", str(folder), "--device", "cpu"],
    ):
        assert main(command) == 2
    scans = folder.rename(tmp_path / "scans")  # where a training at tmp_path keeps its own
    command = ["train", str(scans / cohort.name), "--out", str(tmp_path), "--size", "18,16,20"]
    assert main([*command, "--device", "cpu", *settings()]) == 2
    assert {scans / path.name: data for path, data in before.items()} == {
        path: path.read_bytes() for path in scans.iterdir()
    }


def test_what_moves_images_and_points_leaves_its_inputs_alone(tmp_path: Path, caplog) -> None:
    image, field, points, link = (tmp_path / name for name in ("i.nii", "f.nii", "p.csv", "l.nii"))
    scan = knee(1, (18, 20, 16))
    zero = sitk.GetImageFromArray(np.zeros((*scan.GetSize()[::-1], 3)), isVector=True)
    zero.CopyInformation(scan)
    sitk.WriteImage(scan, str(image))
    sitk.WriteImage(zero, str(field))
    middle = scan.TransformIndexToPhysicalPoint((9, 10, 8))
    points.write_text("x,y,z\n" + ",".join(map(str, middle)) + "\n")
    link.symlink_to(image.name)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for command, *outs in (
        (["warp", str(image)], image, field, link),
        (["points", str(points)], points, field),
    ):
        for out in outs:
            caplog.clear()
            assert main([*command, "--transform", str(field), "--out", str(out)]) == 2
            assert f"{out}: is to be written, and is an input" in caplog.text
        done = tmp_path / f"done{outs[0].suffix}"
        assert main([*command, "--transform", str(field), "--out", str(done)]) == 0
    assert before == {path: path.read_bytes() for path in before}
