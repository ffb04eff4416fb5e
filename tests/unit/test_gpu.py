"""Jobs on a machine with several GPUs take different ones."""

import multiprocessing
import os

import pytest

from workflow.job import VISIBLE, claim_gpu, visible_gpus

FORK = multiprocessing.get_context("fork")


def hold(connection):
    """Claim a GPU, tell which are seen, and hold it until told to end."""
    claim_gpu()
    connection.send(os.environ.get(VISIBLE))
    connection.recv()


class Job:
    """A process that has claimed a GPU."""

    def __init__(self):
        self.connection, child = FORK.Pipe()
        self.process = FORK.Process(target=hold, args=(child,))
        self.process.start()
        self.sees = self.connection.recv()

    def kill(self):
        self.process.kill()
        self.process.join()


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Start jobs on a machine with the GPUs that `nvidia-smi` tells of; end them afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\n'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    started = []

    def start():
        started.append(Job())
        return started[-1]

    yield start
    for job in started:
        job.kill()


def test_each_job_has_a_gpu_until_it_ends(jobs):
    assert visible_gpus() == ["GPU-a", "GPU-b"]
    first, second = jobs(), jobs()
    assert (first.sees, second.sees) == ("GPU-a", "GPU-b")
    assert jobs().sees is None  # none is free: all are seen, as without a claim
    first.kill()
    assert jobs().sees == "GPU-a"


def test_the_environment_says_which_may_be_taken(jobs, monkeypatch):
    monkeypatch.setenv(VISIBLE, "3, 5")
    assert [jobs().sees, jobs().sees] == ["3", "5"]
    monkeypatch.setenv(VISIBLE, "7")
    assert [jobs().sees, jobs().sees] == ["7", "7"]  # one alone, as a cluster gives it to a job
    monkeypatch.setenv(VISIBLE, "")
    assert visible_gpus() == []
