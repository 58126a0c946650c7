"""What the pictures of a sweep share: their size, their grey, numbers as text, and files written whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmark.records import write_whole

Array = NDArray[np.float64]

WIDTH = 1600  # pixels of a full figure, twice what a README shows, so that it is sharp on dense screens
DPI = 200
GREY = "0.45"


def signed(number: float) -> str:
    """Two decimals with a true minus sign, and no minus before zero."""
    return f"{number:.2f}".replace("-0.00", "0.00").replace("-", "−")


def write(path: Path, figure: Figure) -> None:
    """File `figure` as a PNG whose bytes depend on what it shows alone."""
    canvas = FigureCanvasAgg(figure)
    write_whole(path, lambda temporary: canvas.print_png(temporary, metadata={"Software": None}))
