"""One GPU for each job: jobs of a machine with several take different ones."""

import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
from io import TextIOWrapper
from pathlib import Path

log = logging.getLogger(__name__)
VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: list[TextIOWrapper] = []  # open until the process ends, however that comes about


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
