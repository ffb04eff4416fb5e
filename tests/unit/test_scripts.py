"""What rules' scripts tell the user, each run as Snakemake runs it."""

import json
import subprocess
import sys

import pandas as pd

from tests.conftest import ROOT
from workflow.job import told
from workflow.referee.tidy import COLUMNS, MEAN, WHOLE

RUN = """
import json, runpy, sys
from types import SimpleNamespace


class Named(list):  # as Snakemake's lists: by place and by name
    def __init__(self, parts):
        super().__init__(parts.values())
        self.__dict__ |= parts


parts = json.loads(sys.argv[2])
parts = {key: Named(value) if isinstance(value, dict) else value for key, value in parts.items()}
runpy.run_path(f"workflow/scripts/{sys.argv[1]}.py", {"snakemake": SimpleNamespace(**parts)})
"""
WARNING = "A: a.nii: sform and qform contradict one another"


def run_script(name, folder, **parts):
    """Run a script with what rules give it; return the process."""
    parts["log"] = [str(folder / f"{name}.log")]
    return subprocess.run(
        [sys.executable, "-c", RUN, name, json.dumps(parts)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def check(folder, digests):
    """Run the check of a cohort, of which two parts were looked at."""
    paths = []
    for name, own in digests.items():
        part = {"faults": [], "warnings": [WARNING] * (name == "A"), "digests": own}
        part["files"] = {f"{name}.nii": {"bytes": 7, "sha256": name}}
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(part), encoding="utf-8")
    done = run_script(
        "check_cohort",
        folder,
        input=[*map(str, paths)],
        params={"splits": {"A": "test", "B": "train"}, "tested": ["A 1"], "couples": []},
        output=[str(folder / "cohort.json")],
    )
    return done, told([("check_cohort", str(folder / "check_cohort.log"))])


def test_one_image_of_two_patients_ends_the_run(tmp_path):
    done, said = check(tmp_path, {"A": {"A: a.nii": "x"}, "B": {"B: b.mha": "x"}})
    assert done.returncode != 0 and not (tmp_path / "cohort.json").exists()
    assert said.splitlines()[-1] == "  - A: a.nii has the voxels of B: b.mha"
    assert "has the voxels" not in done.stderr  # which tells it at the end of the run


def test_what_is_odd_reaches_the_terminal_and_the_table(tmp_path):
    done, _ = check(tmp_path, {"A": {"A: a.nii": "x"}, "B": {"B: b.mha": "y"}})
    assert done.returncode == 0 and done.stderr.count(WARNING) == 1
    noted = json.loads((tmp_path / "cohort.json").read_text(encoding="utf-8"))["files"]
    assert noted["A.nii"] == {"bytes": 7, "sha256": "A"} and len(noted) == 2
    measures = {"dice": MEAN} | dict.fromkeys(("folds", "folds_abs", "folds_diagonal"), WHOLE)
    rows = [
        ("identity", "cross-subject", "A", "B", label, metric, 0.5, "")
        for metric, label in (measures | {"seconds": WHOLE}).items()
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(tmp_path / "metrics.csv", index=False)
    method = {"id": "identity", "label": "Before", "paper_row": None, "starts_from": "",
              "params": {}, "defaults": {}}  # fmt: skip
    done = run_script(
        "make_table1",
        tmp_path,
        input={"scores": [str(tmp_path / "metrics.csv")], "outcomes": [], "trainings": [],
               "cohort": str(tmp_path / "cohort.json")},
        params={"methods": [method], "tasks": ["cross-subject"], "networks": [],
                "grid": [4, 5, 6], "images": [True, False], "paper": False},
        output=[str(tmp_path / f"table1.{kind}") for kind in ("csv", "md", "tex", "html")],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert f"- Warnings of the check of images: {WARNING}." in text
    assert "- Images: those of 1 of 2 scans are simulated from label maps." in text
    assert "Paper" not in text
