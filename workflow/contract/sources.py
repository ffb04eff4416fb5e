"""Which files of the repository a method or network is made of, beyond the harness."""

from __future__ import annotations

import re
from pathlib import Path

from workflow.config import ROOT

IMPORT = re.compile(r"^\s*(?:from|import)\s+((?:baselines|avsm)\b[\w.]*)", re.MULTILINE)


def sources(folder: Path, root: Path = ROOT) -> list[str]:
    """Return the Python files of a folder and all that they import of `baselines` and `avsm`.

    Paths are relative to `root`. `avsm` counts as a whole.
    """
    waiting = sorted(folder.glob("*.py"))
    found: dict[Path, None] = {}
    while waiting:
        path = waiting.pop(0)
        if path in found:
            continue
        found[path] = None
        for module in IMPORT.findall(path.read_text(encoding="utf-8")):
            if module.split(".")[0] == "avsm":
                found |= dict.fromkeys(sorted((root / "avsm").glob("*.py")))
            elif (imported := root / f"{module.replace('.', '/')}.py").is_file():
                waiting.append(imported)
    return [path.relative_to(root).as_posix() for path in found]
