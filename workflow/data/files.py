"""The files that an image or label map consists of: whether they changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from avsm.files import files_of


def stamp(path: str | Path) -> str:
    """Return what changes when a file is replaced, be it by an older one, without reading it."""
    found = [(str(file), file.stat()) for file in files_of(path)]
    marks = [(name, status.st_size, status.st_mtime_ns) for name, status in found]
    return hashlib.sha256(repr(marks).encode()).hexdigest()


def content(path: str | Path) -> dict[str, int | str]:
    """Return the `bytes` and the `sha256` of an image; of several files, of all their digests."""
    files = files_of(path)
    each = []
    for file in files:
        with file.open("rb") as stream:
            each.append(hashlib.file_digest(stream, "sha256").hexdigest())
    whole = each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()
    return {"bytes": sum(file.stat().st_size for file in files), "sha256": whole}
