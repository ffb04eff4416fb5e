"""The command line: help, errors, training and registration end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from avsm.cli import main
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
        (["--labels", "9"], r"hold the values [1]; expected [9]"),
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
