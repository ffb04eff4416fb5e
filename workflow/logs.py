"""Logging of a job: to its own file and the terminal, uncaught exceptions included."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from workflow.errors import BenchmarkError

FORMAT = "%(asctime)s %(levelname)s %(message)s"


def start_log(path: str | Path, level: int = logging.INFO) -> None:
    """Send all log records to `path` and to stderr, and record what ends the job early."""
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    logging.basicConfig(level=level, format=FORMAT, handlers=[file, terminal], force=True)
    sys.excepthook = _record


def _record(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Log an uncaught exception: a user's error as its message, a defect with its traceback."""
    if issubclass(kind, BenchmarkError):
        logging.error("%s: %s", kind.__name__, error)
    else:
        logging.error("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
