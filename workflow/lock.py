"""One run at a time in a folder of results: a lock that ends with the processes that hold it.

Snakemake's own lock (off in the profiles) needs `--unlock` after a crash, and any Snakemake that
ends in the folder deletes those of all others. This one is the kernel's `flock` of
`results/<run>/.lock`, shared by the main process and the jobs that compute, so that jobs which
outlive a killed run are noticed too. The file says whose it is, for messages, and for file systems
where the kernel of another machine is not asked.
"""

import atexit
import contextlib
import errno
import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import IO, Any

import psutil

from avsm.errors import UserError

NAME = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def changed(folder: str | Path) -> int | None:
    """Return when the lock of a folder was last taken or given back, in ns; never: None."""
    try:
        return Path(folder, NAME).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def take(folder: str | Path, planned: int | None) -> IO[str]:
    """Lock a run's folder until this process ends or closes the file that is returned.

    `planned` is what `changed` said before the run was planned: a plan made while another run was
    at work here is not carried out. A `UserError` says that another process has the lock, had it
    since, or cannot be seen from this machine.
    """
    path = Path(folder, NAME)
    now = changed(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    free = _flock(file, fcntl.LOCK_EX)
    file.seek(0)
    try:
        owner = json.loads(file.read())
    except ValueError:  # empty: given back; cut short: its writer broke down there and then
        owner = {}
    with contextlib.ExitStack() as unless_taken:
        unless_taken.callback(file.close)
        if free is False or (free is None and owner and _lives(owner)):
            raise UserError(_occupied(path, owner))
        if owner and owner["machine"] != platform.node():
            raise UserError(
                f"{folder}: {_described(owner)} works here, or broke down: this machine cannot see "
                f"which. If it is gone, delete {path} and start again."
            )
        if now != planned:
            raise UserError(
                f"{folder}: another run was at work here while this one was planned; start again."
            )
        unless_taken.pop_all()
    if owner:
        print(f"{folder}: taken over from {_described(owner)} which is gone.")
    me = {"machine": platform.node(), "process": os.getpid(), "born": _born(os.getpid())}
    _write(file, json.dumps(me | {"started": time.strftime("%Y-%m-%d %H:%M:%S")}))
    if free and not _flock(file, fcntl.LOCK_SH):  # for the jobs; whoever came between has it now
        file.close()
        raise UserError(_occupied(path, {}))
    atexit.register(_give_back, file)
    return file


def join(folder: str | Path) -> None:
    """Hold the lock of the run that a job belongs to as well, until the job's process ends."""
    with contextlib.suppress(FileNotFoundError):  # when a script is tried by itself
        _flock(os.open(Path(folder, NAME), os.O_RDONLY), fcntl.LOCK_SH)


def _flock(file: IO[str] | int, kind: int) -> bool | None:
    """Return whether the kernel gives a lock now; None: the file system has none."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        return False
    return True


def _write(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _give_back(file: IO[str]) -> None:
    """Say that nobody has the lock; not by closing alone, as other machines go by the text."""
    if not file.closed:
        with contextlib.suppress(OSError):  # a disk that is full or gone
            _write(file, "")
        file.close()


def _born(process: int) -> float | None:
    """Return when a process of this machine began, s; None: it is no more."""
    try:
        return psutil.Process(process).create_time()
    except psutil.NoSuchProcess:
        return None


def _lives(owner: dict[str, Any]) -> bool:
    """Return whether the process that took a lock is seen at work on this machine."""
    born = _born(owner["process"]) if owner["machine"] == platform.node() else None
    return born is not None and abs(born - owner["born"]) < 60  # clocks are set


def _described(owner: dict[str, Any]) -> str:
    if not owner:
        return "another run"
    return "a run of process {process} on {machine}, begun {started},".format(**owner)


def _occupied(path: Path, owner: dict[str, Any]) -> str:
    """Say who works in a folder."""
    here = owner and owner["machine"] == platform.node()
    if here and not _lives(owner):
        jobs = " ".join(map(str, _holders(path)))
        return (
            f"{path.parent}: {_described(owner)} was killed, but jobs of it go on. Wait for them, "
            f"or end them (kill {jobs}), and start again."
        )
    return (
        f"{path.parent}: {_described(owner)} is at work here. Wait for it, stop it, or give this "
        "run another name (--config run=another)."
    )


def _holders(path: Path) -> list[int]:
    """Return the other processes of this machine that have a file open."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(path.resolve()) in {file.path for file in process.open_files()}:
                found.append(process.pid)
    return [process for process in found if process != os.getpid()]
