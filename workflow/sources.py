"""Which files of the repository decide a result: those that imports lead to from what makes it."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from avsm.files import file_digest
from workflow.config import ROOT

# Descriptions decide by their parameters, which Snakemake compares by themselves.
NO_SOURCES = ("rule.smk", "method.yaml", "network.yaml", "README.md")
# All import them, and no result depends on them: who may run, and how errors are worded.
DECIDE_NOTHING = ("workflow/lock.py", "avsm/errors.py")

_once = cache(file_digest)


def sources(*starts: Path, root: Path = ROOT) -> list[Path]:
    """Return files, those in folders, and all files of the repository that they lead to.

    A Python file leads to what it imports, anywhere in its text, and to files beside it that it
    names. A folder's weights and other data count, its description does not. What is imported by a
    name that is put together when the program runs is not found. Starts are absolute paths.
    """
    waiting = [path for start in starts for path in (_within(start) if start.is_dir() else [start])]
    found, nothing = set(), {root / name for name in DECIDE_NOTHING}
    while waiting:
        path = waiting.pop()
        if path not in found and path not in nothing:
            found.add(path)
            waiting += _leads_to(path, root) if path.suffix == ".py" else []
    return sorted(found)


@cache
def digest(*starts: Path) -> str:
    """Return a hash of all sources of some files or folders: with another one, results are due."""
    whole = hashlib.sha256()
    for path in sources(*starts):
        whole.update(f"{path.relative_to(ROOT)} {_once(path)}\n".encode())
    return whole.hexdigest()


def _within(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in NO_SOURCES)
    return [path for path in paths if "__pycache__" not in path.parts]


@cache
def _leads_to(path: Path, root: Path) -> list[Path]:
    """Return the files that a Python file imports, or names."""
    found: list[Path] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for name in node.names:
                found += _module(name.name, root)
        elif isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if node.level else root
            for name in node.names:
                inner = f"{node.module}.{name.name}" if node.module else name.name
                found += _module(inner, start)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if "." in text and len(text) < 100 and text.isprintable():
                found += [beside] if (beside := path.parent / text).is_file() else []
    return found


def _module(name: str, start: Path) -> list[Path]:
    """Return the files of a module and of the packages that it is in.

    What a package hands out itself, or under a name that is none of its files, may come from any
    of them.
    """
    found, place = [], start
    for part in name.split("."):
        package, place = place, place / part
        own = [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
        if not own and not place.is_dir():
            place = package
            break
        found += own
    initial = place / "__init__.py"
    whole = place != start and initial.is_file() and initial.stat().st_size
    return found + (sorted(place.glob("*.py")) if whole else [])
