"""The script for a GPU runs from end to end on any machine, on tiny images."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.workflow


def test_the_script_prints_its_tables(tmp_path):
    environment = os.environ | {"TINY": "1", "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks/gpu/run.sh"), str(tmp_path)],
        check=False, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    printed = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert printed == done.stdout
    for text in ("| small | registration |", "| momentum | mean of its phases", "Dice of 4 pairs"):
        assert text in printed
    assert (tmp_path / "networks/momentum/best.pt").is_file()
