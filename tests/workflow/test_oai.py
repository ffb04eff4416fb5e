"""A miniature OAI release goes from DICOM to Table 1 by two commands."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import SimpleITK as sitk

from tests.oai import Release
from workflow.phantom.dess import simulate_dess
from workflow.phantom.labels import phantom_label

pytestmark = pytest.mark.workflow

SIZE = (32, 48, 48)
LABELLED, UNLABELLED = 2, 5
# Names that a shell would take for commands, options or the end of a quotation.
ODD = "-O A I; touch pwned 'it' \"is\" $(touch pwned)"


def make_release(folder):
    """Write phantom knees as an OAI release with label maps for tests and for validation."""
    release = Release(folder / ODD)
    for patient in range(LABELLED + UNLABELLED):
        subject, side = str(9000100 + patient), ("right", "left")[patient % 2]
        kind = "labels" if patient < LABELLED else "automatic"
        for number, visit in enumerate(("00m", "12m")):
            label = phantom_label(patient, number, side, SIZE, seed=1)
            image = simulate_dess(label, (1, patient, number), (1, patient))
            release.add(subject, visit, side, sitk.Cast(image, sitk.sitkUInt16))
            path = folder / kind / f"-{subject}; 'x' V{number:02d} {side}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            sitk.WriteImage(label, str(path))
    release.tables()
    return release


def test_from_dicom_to_table_1(fresh_project):
    project = fresh_project
    release = make_release(project.folder)
    index = [
        sys.executable, "-m", "workflow.oai", "--out", "oai.csv", "--expect", "32x48x48",
        "--labels", "labels", "--validation-labels", "automatic", "--", release.root.name,
    ]  # fmt: skip
    done = subprocess.run(
        index, cwd=project.folder, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    project.configure(
        "mini",
        run="mini",
        methods=["identity", "affine-niftyreg", "affine-net"],
        pairs={"longitudinal": "all", "cross-subject": 2},
        training={"couples": {"longitudinal": 2, "cross-subject": 3}},
        table2=[],
        curves={"figure8": [], "figure10": []},
    )
    done = project.run("--configfile", "config/oai.yaml", "config/tiny.yaml", "mini.yaml")
    assert done.returncode == 0, done.output
    results = project.folder / "results/mini"
    table = pd.read_csv(results / "tables/table1.csv").set_index("method")
    for task in ("longitudinal", "cross-subject"):
        assert (table[f"{task} n"] == 4).all() and (table[f"{task} N"] == 4).all()
        dice = table[f"{task} dice"]
        assert dice["affine-NiftyReg"] > dice["Before registration"] > 0
    tested = {str(9000100 + patient) for patient in range(LABELLED)}
    for task, number in (("longitudinal", 2), ("cross-subject", 3)):
        manifest = pd.read_csv(results / f"training/{task}/manifest.csv", dtype=str)
        couples = pd.read_csv(results / f"training/{task}/couples.csv")
        assert [*couples["task"]] == number * [task]
        in_couples = {*couples["fixed"], *couples["moving"]}
        assert {*manifest.loc[manifest["split"] == "train", "image"]} == in_couples
        assert set(manifest["split"]) == {"train", "validation"}
        assert not tested & set(manifest["subject"])
    splits = json.loads((results / "cohort.json").read_text(encoding="utf-8"))["splits"]
    assert {subject for subject, split in splits.items() if split == "test"} == tested
    assert not list(project.folder.rglob("pwned"))
