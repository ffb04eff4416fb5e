"""The headers of all series, read once: what a killed run has read stays read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from avsm.dicom import Grid, read_series
from avsm.errors import UserError
from workflow.data.oai.release import Excluded, Listed

SECONDS_BETWEEN_LINES = 5


def read_grids(
    series: Sequence[Listed], expected: Sequence[int], progress: Path, threads: int
) -> tuple[dict[Listed, Grid], list[Excluded]]:
    """Return the grid of every sound series of the expected size, and the others with reasons.

    `expected` is left-right, front-back, bottom-top, in voxels. `progress` is a file of JSON lines
    to which each sound series is added as soon as it is read. Faulty ones are read again next
    time, as they may have been mended; so are folders that have changed.
    """
    known = _read_progress(progress)
    grids, excluded = {}, []
    with progress.open("a", encoding="utf-8") as stream, ThreadPoolExecutor(threads) as pool:
        stream.write("\n")  # ends a line that a kill cut short
        read = pool.map(lambda each: _grid(each, known), series)
        for each, (grid, fault) in zip(series, _counted(read, len(series)), strict=True):
            if grid and _key(each) not in known:
                stream.write(json.dumps([*_key(each), grid]) + "\n")
                stream.flush()
            reason = fault or _wrong_size(grid, expected)
            if reason:
                excluded.append(Excluded(str(each.folder), reason, *each.scan))
            else:
                grids[each] = grid
    return grids, excluded


def anatomical_size(grid: Grid) -> tuple[int, ...]:
    """Return voxels left-right, front-back and bottom-top, whatever the order of the axes."""
    along = np.abs(np.reshape(grid.direction, (3, 3))).argmax(axis=0)
    return tuple(int(grid.size[axis]) for axis in np.argsort(along))


def _key(series: Listed) -> tuple[str, int]:
    """Identify a folder in the state it is in: files that come or go change its time."""
    return str(series.folder.resolve()), series.folder.stat().st_mtime_ns


def _grid(series: Listed, known: dict[tuple[str, int], Grid]) -> tuple[Grid | None, str]:
    """Return the grid of one series, or why it has none."""
    try:
        return known.get(_key(series)) or read_series(series.folder).grid, ""
    except (UserError, OSError) as error:
        lines = str(error).removeprefix(f"{series.folder}: ").splitlines()
        return None, " ".join(line.strip() for line in lines)


def _read_progress(path: Path) -> dict[tuple[str, int], Grid]:
    """Read what an earlier run left; a line that a kill cut short is left out."""
    known = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                folder, changed, grid = json.loads(line)
            except ValueError:
                continue
            known[folder, changed] = Grid(*map(tuple, grid))
    return known


def _wrong_size(grid: Grid, expected: Sequence[int]) -> str:
    """Say how a grid's size differs from the one expected, if it does."""
    found, wanted = ("x".join(map(str, size)) for size in (anatomical_size(grid), expected))
    return "" if found == wanted else f"found {found} voxels, expected {wanted}"


def _counted(results: Iterable, total: int) -> Iterator:
    """Pass results on, and say on stderr now and then how many came and how long the rest takes."""
    start = told = time.monotonic()
    for count, result in enumerate(results, start=1):
        now = time.monotonic()
        if now - told > SECONDS_BETWEEN_LINES or count == total:
            left = (now - start) / count * (total - count)
            print(f"{count:,} of {total:,} series read, {left / 60:.0f} min left", file=sys.stderr)
            told = now
        yield result
