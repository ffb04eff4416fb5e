"""The log of a job, and what is told of it at the end of a run."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from workflow.job import told

JOB = """
import logging, sys
from avsm.errors import UserError
from workflow.job import start_log

start_log(sys.argv[1])
logging.info("begins")
logging.warning("beware")
{end}
"""


def end_by(log, end):
    """Run a job that ends in some way; return its stderr."""
    job = [sys.executable, "-c", JOB.format(end=end), str(log)]
    return subprocess.run(job, cwd=ROOT, capture_output=True, text=True, check=False).stderr


def test_each_fault_is_told_once_and_not_before_the_end(tmp_path):
    logs = {name: tmp_path / f"{name}.log" for name in ("one", "two", "defect", "killed", "gone")}
    for name in ("one", "two"):
        end = r"raise UserError('Faults:\n  - a.nii: 2026 is no year\n  - b.nii: NaN')"
        said = end_by(logs[name], end)
        assert "beware" in said and "a.nii" not in said
    assert "KeyError" not in end_by(logs["defect"], "{}['x']")
    end_by(logs["killed"], "import os; os.kill(os.getpid(), 9)")
    text = told((name, str(path)) for name, path in logs.items())
    assert text.count("a.nii") == 1
    assert text.startswith(
        f"one ({logs['one']}), two ({logs['two']}):\nFaults:\n  - a.nii: 2026 is"
    )
    assert "UserError" not in text and "beware" not in text
    assert "KeyError: 'x'\nTraceback (most recent call last)" in text
    assert text.endswith(
        f"killed ({logs['killed']}), gone ({logs['gone']}):\n"
        "It ended without a word: killed, perhaps for want of memory, or see above."
    )


@pytest.mark.parametrize(
    "end", ["raise KeyboardInterrupt", "import os, signal; os.kill(os.getpid(), 2)"]
)
def test_a_job_that_is_stopped_says_no_fault(tmp_path, end):
    start = "import signal; signal.signal(2, signal.default_int_handler); "
    assert "Traceback" not in end_by(tmp_path / "log", start + end)
    assert "ended without a word" in told([("job", str(tmp_path / "log"))])
