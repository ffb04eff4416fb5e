"""The beginning of every job: its log, and its threads."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from workflow.contract.gpu import claim_gpu
from workflow.errors import BenchmarkError

FORMAT = "%(asctime)s %(levelname)s %(message)s"
# Whose details are worth a place in the log, such as the output of external programs.
OURS = ("workflow", "baselines", "avsm")


def start_log(path: str | Path) -> None:
    """Send log records to `path`, warnings to stderr too, and record what ends the job early."""
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format=FORMAT, handlers=[file, terminal], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    sys.excepthook = _record


def start_job(path: str | Path, threads: int, seed: int = 0, gpus: int = 0) -> None:
    """Start the log, bound the threads of a job that computes, and take a GPU if it asked."""
    from workflow.contract.shard import set_threads  # tables and figures need no ITK

    start_log(path)
    set_threads(threads, seed)
    if gpus:
        claim_gpu()


def _record(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Log an uncaught exception: a user's error as its message, a defect with its traceback."""
    if issubclass(kind, BenchmarkError):
        logging.error("%s: %s", kind.__name__, error)
    else:
        logging.error("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
