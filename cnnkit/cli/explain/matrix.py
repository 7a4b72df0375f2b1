"""Topic: a convolution is a dense layer with most weights zero and the others tied."""

from typing import Any

import numpy as np

import cnnkit
from cnnkit import analysis
from cnnkit.arrays import Array
from cnnkit.cli.page import beside, captioned, figure, page, paragraph

SUBJECT = "a sparse dense layer with tied weights"


def weight() -> Array:
    """Nine weights that can be told apart in print."""
    return np.arange(1.0, 10.0).reshape(1, 1, 3, 3)


def text() -> str:
    """The page."""
    padded = analysis.conv_matrix(weight(), (1, 4, 4), padding=1)
    matrix = analysis.conv_matrix(weight(), (1, 6, 6))
    x = np.random.default_rng(0).normal(size=(1, 6, 6))
    y = cnnkit.conv2d(x, weight())
    back = cnnkit.conv2d_backward(y, x, weight(), needs=("x",)).x
    off = abs(matrix @ x.ravel() - y.ravel()).max()
    off_back = abs(matrix.T @ y.ravel() - back.ravel()).max()
    rows, columns = matrix.shape
    in_row = np.diff(matrix.indptr)
    large = analysis.parameter_savings((1, 224, 224), None, 1, 3, bias=False)
    return page(
        paragraph("""Write the image as a list, and a convolution is a matrix, like a dense layer. The kernel below on
            4 x 4 pixels with padding 1: 16 inputs, 16 outputs; a row for each output, a point for each weight that is
            not there:"""),
        beside(captioned("kernel", _digits(weight()[0, 0])), captioned("matrix", _digits(padded.toarray())), gap=6),
        paragraph("""Every row has the same nine numbers, moved: locality makes the points, sharing the diagonals. The
            rows of the border have fewer: the others would meet padding."""),
        paragraph(f"""Of 6 x 6 pixels without padding it is a matrix of {rows} x {columns} with
            {" or ".join(map(str, sorted({*in_row})))} entries in every row, {matrix.nnz} of {rows * columns}, and
            {len(set(matrix.data))} different ones. matrix @ x differs from conv2d(x) by at most {off:.1g}, and
            matrix.T @ y from the gradient that conv2d_backward computes by at most {off_back:.1g}: rounding."""),
        paragraph(f"""For 224 x 224 pixels the matrix would have {large.dense:,} entries, of which
            {large.connections:,} are not zero: nobody writes it down. It is what a dense layer would have to learn to
            do the same."""),
    )


def _digits(values: Array) -> str:
    return "\n".join(" ".join(f"{value:.0f}" if value else "." for value in row) for row in values)


def draw() -> Any:
    """The two matrices, signed weights."""
    shown = figure(12, 4.6)
    left, right = shown.subplots(1, 2, width_ratios=(1, 1.5))
    signed = weight() - 5.0
    signed[signed == 0] = 0.5
    analysis.plot_conv_matrix(signed, (1, 4, 4), padding=1, ax=left)
    analysis.plot_conv_matrix(signed, (1, 6, 6), ax=right)
    return shown
