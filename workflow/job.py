"""The beginning of every job: its log, threads, GPU and part in the run's lock; its last words."""

import fcntl
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path

from avsm.errors import UserError
from workflow.lock import join

log = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s %(message)s"
RECORD = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]{12} ([A-Z]+) ", re.MULTILINE)
# Whose details are worth a place in the log, such as the output of external programs.
OURS = ("workflow", "baselines", "avsm")
VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: list[TextIOWrapper] = []  # GPUs' locks, open until the process ends, however that comes


def start_log(path: str | Path) -> None:
    """Send log records to `path`, and record there what ends the job early.

    Warnings go to stderr too; errors do not, as the run tells them at its end, see `told`.
    """
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    terminal = logging.StreamHandler()
    terminal.addFilter(lambda record: record.levelno == logging.WARNING)
    logging.basicConfig(level=logging.INFO, format=FORMAT, handlers=[file, terminal], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    sys.excepthook = _record


def start_job(path: str | Path, threads: int, seed: int = 0, gpus: int = 0) -> None:
    """Start the log and bound the threads of a job that computes; take a GPU if it asked.

    The job holds the run's lock, too, so that nobody starts the run anew beside it.
    """
    start_log(path)
    join(next((p.parent for p in Path(path).parents if p.name == "logs"), ""))
    set_threads(threads, seed)
    if gpus:
        claim_gpu()


def set_threads(threads: int, seed: int = 0) -> None:
    """Tell every tool its thread count and seed; call before a method's module is imported."""
    import SimpleITK as sitk  # tables and figures need no ITK

    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    os.environ["ANTS_RANDOM_SEED"] = str(seed)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def say(text: str) -> None:
    """Tell the user a result, as one line of the terminal."""
    print(f"{datetime.now():%H:%M} {text}", file=sys.stderr, flush=True)


def claim_gpu() -> None:
    """Let this process see one NVIDIA GPU alone that no other job of the user holds.

    Call it before the first use of CUDA. Where there are not several to choose from, or none is
    free, all stay as they are. `CUDA_VISIBLE_DEVICES`, if it is set, says which may be taken, and
    must name them alike for all jobs.
    """
    visible = visible_gpus()
    if len(visible) < 2:
        return
    folder = Path(tempfile.gettempdir(), f"benchmark-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for gpu in visible:
        lock = (folder / f"{gpu.replace('/', '_')}.lock").open("w")
        try:
            # Held by this process and its children, and let go by the system when they are gone.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held.append(lock)
        os.environ[VISIBLE] = gpu
        log.info("GPU %s of %s", gpu, ", ".join(visible))
        return
    log.warning("all GPUs (%s) are taken by other jobs: sharing one", ", ".join(visible))


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that may be used, by `CUDA_VISIBLE_DEVICES` or nvidia-smi."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return listed.stdout.split() if listed.returncode == 0 else []


def _record(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Log an uncaught exception: a user's error as its message, a defect with its traceback."""
    if issubclass(kind, UserError):
        logging.error("%s", error)
    elif issubclass(kind, Exception):
        logging.error("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
    else:
        logging.warning("stopped (%s)", kind.__name__)


def told(jobs: Iterable[tuple[str, str]]) -> str:
    """Return why jobs failed, each fault once; of each job the name and the path of its log."""
    faults: dict[str, list[str]] = {}
    for name, path in jobs:
        faults.setdefault(_last_words(Path(path)), []).append(f"{name} ({path})")
    return "\n\n".join(f"{', '.join(names)}:\n{fault}" for fault, names in faults.items())


def _last_words(path: Path) -> str:
    """Return the error that a job's log ends with."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    records = [*RECORD.finditer(text)]
    if records and records[-1][1] == "ERROR":
        return text[records[-1].end() :].rstrip()
    return "It ended without a word: killed, perhaps for want of memory, or see above."
