"""The look of all figures, and their saving, such that equal ones are equal files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from avsm.files import written_aside

matplotlib.rc_file(Path(__file__).parent / "../../matplotlibrc")

# The paper's colours, in shades that colour-blind readers can tell apart (Okabe and Ito 2008).
TASK_COLOURS = {"longitudinal": "#009E73", "cross-subject": "#E69F00"}
# Dates in a file would make equal figures differ.
UNDATED = {".pdf": {"CreationDate": None}, ".png": {"Creation Time": None}}


def save_figure(figure: plt.Figure, paths: Sequence[str], **options: Any) -> None:
    """Save a figure to every path, and close it; options are those of ``savefig``."""
    for path in paths:
        with written_aside(path) as aside:
            figure.savefig(aside, metadata=UNDATED[Path(path).suffix], **options)
    plt.close(figure)
