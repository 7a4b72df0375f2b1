"""How topics are laid out: paragraphs, tables and pictures of characters in 80 columns, and figures."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnkit.arrays import Array

WIDTH = 79
SHADES = " .:-=+*#%@"  # from dark to bright, as on a dark terminal


def page(*parts: str) -> str:
    """Parts with an empty line between them."""
    return "\n\n".join(part.strip("\n") for part in parts)


def paragraph(text: str) -> str:
    """Flowing text."""
    return textwrap.fill(" ".join(text.split()), WIDTH)


def table(*rows: Sequence[Any]) -> str:
    """The first row is the header; the first column goes to the left, the others to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def beside(*blocks: str, gap: int = 4) -> str:
    """Blocks of lines next to each other."""
    columns = [block.splitlines() for block in blocks]
    height, widths = max(map(len, columns)), [max(map(len, lines)) for lines in columns]
    padded = [lines + [""] * (height - len(lines)) for lines in columns]
    rows = zip(*padded, strict=True)
    return "\n".join(
        (" " * gap).join(f"{line:<{width}}" for line, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def picture(image: Array) -> str:
    """An image as characters, a pixel each, dark to bright."""
    low, high = float(image.min()), float(image.max())
    levels = (image - low) / ((high - low) or 1) * (len(SHADES) - 1)
    return "\n".join("".join(SHADES[round(float(level))] for level in row) for row in levels)


def grid(values: Array) -> str:
    """A small array as a block of numbers."""
    cells = [[f"{float(value):g}" if np.isfinite(value) else "." for value in row] for row in values]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join(" ".join(cell.rjust(width) for cell in row) for row in cells)


def captioned(caption: str, block: str) -> str:
    return f"{caption}\n{block}"


def figure(width: float, height: float) -> Any:
    """A figure without pyplot: no display, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made
