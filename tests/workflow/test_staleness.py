"""What is made again when code, files or the configuration change, and what is not."""

import hashlib
import os
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.workflow
# A job's rule, and the method that it registers with.
JOB = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):\n((?:    .*\n)*)", re.MULTILINE)
METHOD = re.compile(r"wildcards: method=([^,\n]+)")


def write_cohort(folder):
    """Write three people's images and label maps."""
    folder.mkdir()
    z, y, x = np.mgrid[:24, :32, :32]
    rng, rows = np.random.default_rng(0), ["subject,side,image,label"]
    for shift, name in enumerate("ABC"):
        label = 2 * ((z - 12) ** 2 + (y - 16 - shift) ** 2 + (x - 14) ** 2 < 64).astype(np.uint8)
        label[(z - 12) ** 2 + (y - 16 - shift) ** 2 + (x - 20) ** 2 < 20] = 4
        image = (50 * label + rng.normal(0, 5, label.shape)).astype(np.float32)
        for array, kind in ((image, "image"), (label, "label")):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{name}_{kind}.nii"))
        rows.append(f"{name},right,{name}_image.nii,{name}_label.nii")
    (folder / "cohort.csv").write_text("\n".join(rows))


def test_what_is_made_again(fresh_project):
    project = fresh_project
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text(encoding="utf-8"))
    mine = tiny | {
        "run": "mine",
        "methods": ["identity", "affine-niftyreg"],
        "cohort": {"source": "manifest", "path": "data/cohort.csv"},
        "split": {"test": 1.0, "validation": 0.0},
        "pairs": {"longitudinal": 0, "cross-subject": 1},
        "keep_fields": True,
    }
    write_cohort(project.folder / "data")
    config = project.configure("mine", **mine)
    results = project.folder / "results/mine"

    def run(*options):
        done = project.call("--cores", "2", *options, "--configfile", config)
        assert done.returncode == 0, done.output
        jobs = (
            f"register {METHOD.search(block)[1]}" if rule == "register" else rule
            for rule, block in JOB.findall(done.output)
        )
        return Counter(jobs), done.output

    def due():
        return run("-n")[0]

    def edit(name):
        """Edit a file, with an old time; return a function that takes the edit back."""
        path = project.folder / name
        text, times = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(f"{text}\n# edited\n", encoding="utf-8")
        os.utime(path, (1e9, 1e9))
        return lambda: (path.write_text(text, encoding="utf-8"), os.utime(path, ns=(
            times.st_atime_ns, times.st_mtime_ns)))  # fmt: skip

    assert run()[0]["register affine-niftyreg"] == 1
    assert "Nothing to be done" in run()[1]

    # Code that decides nothing here, and the times of files, are no reason.
    for name in (
        "avsm/cli.py",
        "avsm/train.py",
        "workflow/phantom/labels.py",
        "workflow/phantom/dess.py",
        "workflow/run.py",
    ):
        edit(name)
    for path in (project.folder / "workflow").rglob("*.*"):
        path.touch()
    assert not due()

    undo = edit("workflow/referee/tidy.py")
    found = due()
    assert found["evaluate"] == 2 and found["make_table1"] == 1
    assert not [name for name in found if name.startswith(("register", "preprocess"))]
    undo()
    undo = edit("baselines/identity/register.py")
    found = due()
    assert found["register identity"] == 1 and "register affine-niftyreg" not in found
    undo()
    undo = edit("workflow/provenance.py")
    assert due()["make_report"] == 1
    undo()
    undo = edit("workflow/referee/page.html")
    assert due()["make_table1"] == 1
    undo()
    assert not due()

    # A file with another time and the same content is looked at, and that is all.
    image = project.folder / "data/A_image.nii"
    image.touch()
    assert set(run()[0]) == {"check_scans", "check_cohort"}
    other = project.folder / "other.nii"
    sitk.WriteImage(sitk.ReadImage(str(image)) * 2 + 1, str(other))
    os.utime(other, (1e9, 1e9))
    shutil.copy2(other, image)  # as cp -p does
    found = run()[0]
    assert found["preprocess"] == 1  # of the image, not of the label map
    noted = yaml.safe_load((results / "manifest.json").read_text(encoding="utf-8"))["files"]
    whole = image.read_bytes()
    content = {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    assert noted["data/A_image.nii"] == content and len(noted) == 4  # of the two scans in use
    assert "Nothing to be done" in run()[1]

    # Pictures and tables of what is no more go; what was computed, and the user's files, stay.
    (results / "figures/mine.png").touch()
    pictures = {path.name for path in (results / "figures/checks").iterdir()}
    assert pictures == {"identity_cross-subject.png", "affine-niftyreg_cross-subject.png"}
    project.configure("mine", **mine | {"methods": ["identity"]})
    run()
    pictures = {path.name for path in (results / "figures/checks").iterdir()}
    assert pictures == {"identity_cross-subject.png"}
    assert (results / "figures/mine.png").exists()
    assert (results / "registrations/affine-niftyreg").exists()
