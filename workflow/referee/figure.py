"""Saving of figures, such that equal ones are equal files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from avsm.files import written_aside

# Dates in a file would make equal figures differ.
UNDATED = {".pdf": {"CreationDate": None}, ".png": {"Creation Time": None}}


def save_figure(figure: plt.Figure, paths: Sequence[str], **options: Any) -> None:
    """Save a figure to every path, and close it; options are those of ``savefig``."""
    for path in paths:
        with written_aside(path) as aside:
            figure.savefig(aside, metadata=UNDATED[Path(path).suffix], **options)
    plt.close(figure)
