"""Which files of the repository a method or network is made of, beyond the harness."""

from __future__ import annotations

import re
from pathlib import Path

from workflow.config import ROOT

IMPORT = re.compile(
    r"^\s*(?:from\s+((?:baselines|avsm)\b[\w.]*)\s+import\s+\(?([\w\s,]*)"
    r"|import\s+((?:baselines|avsm)\b[\w.]*))",
    re.MULTILINE,
)
# Descriptions decide by their parameters, which Snakemake compares by themselves.
NO_SOURCES = ("rule.smk", "method.yaml", "network.yaml", "README.md")


def sources(folder: Path, root: Path = ROOT) -> list[str]:
    """Return the files of a folder and all Python files that they import of `baselines` and `avsm`.

    Weights and other data in the folder count, its description does not. Paths are relative to
    `root`. `avsm` counts as a whole.
    """
    waiting = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name not in NO_SOURCES
    )
    found: dict[Path, None] = {}
    while waiting:
        path = waiting.pop(0)
        if path in found:
            continue
        found[path] = None
        if path.suffix == ".py":
            for module in _imported(path.read_text(encoding="utf-8")):
                if module.split(".")[0] == "avsm":
                    found |= dict.fromkeys(sorted((root / "avsm").glob("*.py")))
                elif (imported := root / f"{module.replace('.', '/')}.py").is_file():
                    waiting.append(imported)
    return [path.relative_to(root).as_posix() for path in found]


def _imported(text: str) -> list[str]:
    """Return the modules that a file may import; names in modules are among them."""
    modules = []
    for package, names, module in IMPORT.findall(text):
        modules.append(package or module)
        modules += [f"{package}.{name}" for name in re.findall(r"\w+", names) if package]
    return modules
