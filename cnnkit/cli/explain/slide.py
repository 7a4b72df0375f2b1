"""Topic: the kernel slides, with every sum written out."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import cnnkit
from cnnkit import analysis
from cnnkit.arrays import Array
from cnnkit.cli.page import beside, captioned, figure, grid, page, paragraph

SUBJECT = "the kernel slides, every sum written out"


def image() -> Array:
    """Five by five small numbers."""
    return np.array([[1, 2, 0, 1, 1], [0, 1, 2, 2, 0], [2, 0, 1, 0, 1], [1, 1, 0, 2, 2], [0, 2, 1, 1, 0]], float)


def text() -> str:
    """The page."""
    x, kernel = image(), analysis.sobel(1)
    steps = analysis.slide(x, kernel)
    output = np.full((3, 3), np.nan)
    shown = []
    for number, step in enumerate(steps, start=1):
        output[step.position] = step.total
        if number in (1, 2, 4, 9):
            shown.append(_step(number, step, x, kernel, output))
    same = bool((cnnkit.conv2d(x[None], kernel[None, None])[0] == output).all())
    return page(
        paragraph("""A window as large as the kernel moves over the image. At each place the numbers under it are
            multiplied by those of the kernel and added up; the sum is one number of the output."""),
        "output[i, j] = sum over m, n of  input[i + m, j + n] x kernel[m, n]",
        *shown,
        "All nine sums:",
        "\n".join(f"{step.position}  {step.text.replace(' x ', 'x').replace(' + ', '+')}" for step in steps),
        paragraph(f"""cnnkit.conv2d {"gives the same nine numbers" if same else "gives something else"}. It is
            cross-correlation, to be exact: the convolution of mathematics turns the kernel by half a turn first. All
            deep-learning libraries say convolution and leave the kernel as it is, for it is learnt anyway."""),
    )


def _step(number: int, step: analysis.Step, x: Array, kernel: Array, output: Array) -> str:
    terms, total = step.text.split(" = ")
    parts = terms.split(" + ")
    sums = " +\n".join("   " + " + ".join(parts[i : i + 3]) for i in (0, 3, 6)) + f" = {total}"
    names = {"input": _window(x, step.position), "kernel": grid(kernel), "output": grid(output)}
    grids = beside(*(captioned(name, block) for name, block in names.items()))
    return f"step {number}\n{grids}\n{sums}"


def _window(x: Array, position: tuple[int, int]) -> str:
    """The image with the window in brackets."""
    top, left = position
    lines = []
    for i, row in enumerate(x):
        cells = [f"{value:g}" for value in row]
        inside = top <= i < top + 3
        lines.append("".join(_mark(cell, inside and left <= j < left + 3) for j, cell in enumerate(cells)))
    return "\n".join(lines)


def _mark(cell: str, inside: bool) -> str:
    return f"[{cell}]" if inside else f" {cell} "


def draw() -> Any:
    """Four of the nine steps."""
    shown = figure(13, 8.5)
    for axes, step in zip(shown.subplots(2, 2).flat, (0, 1, 3, 8), strict=True):
        analysis.plot_slide(image(), analysis.sobel(1), step=step, ax=axes)
        axes.set_title(f"step {step + 1}", loc="left")
    return shown


def animation() -> bytes:
    """All steps as the content of a GIF file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.gif"
        analysis.animate_slide(image(), analysis.sobel(1)).save(path, writer="pillow")
        return path.read_bytes()
