"""The files that an image or label map consists of: which they are, and whether they changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

# Their voxels lie in another file beside them.
HEADERS = (".hdr", ".img", ".mhd", ".nhdr")


def files_of(path: str | Path) -> list[Path]:
    """Return the files of an image: itself, those of its name beside a header, or a folder's."""
    path = Path(path)
    if path.is_dir():
        return sorted(Path(folder, file) for folder, _, files in os.walk(path) for file in files)
    if path.suffix.lower() in HEADERS:
        return sorted(file for file in path.parent.iterdir() if file.stem == path.stem)
    return [path]


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
