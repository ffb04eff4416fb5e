"""The lock of a run: who is refused, who takes over, and what is said."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from avsm.errors import UserError
from tests.conftest import ROOT
from workflow import lock

TAKE = (
    "from workflow import lock; import sys, time; kept = lock.take(sys.argv[1], {}); print(1); {}"
)


def another(folder, then="time.sleep(60)", planned="None"):
    """Start a process that takes the lock, and wait until it has it."""
    started = subprocess.Popen(
        [sys.executable, "-uc", TAKE.format(planned, then), str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert started.stdout.readline()
    return started


def end(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def owner_of(folder):
    return json.loads((folder / lock.NAME).read_text(encoding="utf-8"))


def test_a_second_run_is_refused_and_told_whose_the_first_is(tmp_path):
    first = another(tmp_path)
    try:
        planned = lock.changed(tmp_path)
        with pytest.raises(UserError, match="at work here") as refused:
            lock.take(tmp_path, planned)
        assert f"process {first.pid} on {owner_of(tmp_path)['machine']}" in str(refused.value)
        assert owner_of(tmp_path)["process"] == first.pid  # the refusal has changed nothing
        lock.take(tmp_path.parent / "other", None).close()  # a run of another name
    finally:
        end(first)


def test_of_a_dead_run_the_next_takes_over(tmp_path, capsys):
    end(another(tmp_path))
    kept = lock.take(tmp_path, lock.changed(tmp_path))
    assert "which is gone" in capsys.readouterr().out
    assert owner_of(tmp_path)["process"] == os.getpid()
    kept.close()


def test_a_run_that_ended_leaves_no_owner(tmp_path, capsys):
    first = another(tmp_path, then="pass")
    first.wait()
    assert (tmp_path / lock.NAME).read_text() == ""
    lock.take(tmp_path, lock.changed(tmp_path)).close()
    assert capsys.readouterr().out == ""


def test_what_was_planned_beside_another_run_is_not_carried_out(tmp_path):
    first = another(tmp_path)
    planned = lock.changed(tmp_path)
    time.sleep(0.01)
    os.killpg(first.pid, signal.SIGINT)
    first.wait()
    with pytest.raises(UserError, match="while this one was planned; start again"):
        lock.take(tmp_path, planned)


@pytest.mark.parametrize(
    "join",
    ["from workflow import lock; lock.join(sys.argv[1])",
     "from workflow.job import start_job; start_job(sys.argv[1] + '/logs/a.log', 1)"],
)  # fmt: skip
def test_jobs_that_outlive_a_killed_run_are_named(tmp_path, join):
    (tmp_path / "logs").mkdir()
    first = another(tmp_path)
    job = subprocess.Popen(
        [sys.executable, "-uc", f"import sys, time; {join}; print(1); time.sleep(60)",
         str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert job.stdout.readline()
    end(first)
    with pytest.raises(UserError, match=rf"was killed.*\(kill {job.pid}\)"):
        lock.take(tmp_path, lock.changed(tmp_path))
    job.kill()
    job.wait()
    lock.take(tmp_path, lock.changed(tmp_path)).close()


def test_another_machine_s_run_is_not_taken_over_but_says_what_to_delete(tmp_path):
    text = '{"machine": "node7", "process": 12, "born": 1.0, "started": "2020-01-01 00:00:00"}'
    (tmp_path / lock.NAME).write_text(text)
    with pytest.raises(UserError, match=r"process 12 on node7, .*delete .*/\.lock"):
        lock.take(tmp_path, lock.changed(tmp_path))
    assert (tmp_path / lock.NAME).read_text() == text
    (tmp_path / lock.NAME).unlink()
    lock.take(tmp_path, None).close()


def test_where_the_file_system_has_no_locks_processes_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_flock", lambda *_: None)
    first = another(tmp_path)
    try:
        with pytest.raises(UserError, match="at work here"):
            lock.take(tmp_path, lock.changed(tmp_path))
    finally:
        end(first)
    lock.take(tmp_path, lock.changed(tmp_path)).close()
    lock.join(tmp_path / "none")


def test_another_process_of_a_dead_runs_number_is_not_that_run(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_flock", lambda *_: None)
    lock.take(tmp_path, None).close()
    owner = owner_of(tmp_path)
    with pytest.raises(UserError, match="at work here"):
        lock.take(tmp_path, lock.changed(tmp_path))
    (tmp_path / lock.NAME).write_text(json.dumps(owner | {"born": owner["born"] - 3600}))
    lock.take(tmp_path, lock.changed(tmp_path)).close()
