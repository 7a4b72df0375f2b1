"""The pictures: each draws into the Axes that it is given, or into those of a new figure, and returns them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnnkit import arrays, plotting
from cnnkit.analysis import drawing
from cnnkit.analysis.counting import training_examples_needed
from cnnkit.analysis.matrices import conv_matrix
from cnnkit.analysis.moving import equivariance_error, invariance_error
from cnnkit.analysis.pixels import neighbour_correlation, sobel
from cnnkit.analysis.receptive import receptive_field
from cnnkit.analysis.summaries import in_units, summary
from cnnkit.analysis.tracing import children, feature_maps
from cnnkit.arrays import Array
from cnnkit.nn.layer import Layer
from cnnkit.ops.conv import conv2d

Functions = Mapping[str, Callable[[Array], Array]]
DATASETS = {"CIFAR-10": 50_000, "MNIST": 60_000, "ImageNet": 1_281_167}  # training images


def plot_parameters(counts: Mapping[str, int], *, highlight: Sequence[str] = (), ax: Any = None) -> Any:
    """Draw how many parameters layers have, as bars on a logarithmic scale.

    Parameters
    ----------
    counts : dict of str to int
        What `conv_parameters` and `dense_parameters` count, by the names to print.
    highlight : sequence of str
        Those to draw in orange, the others are blue.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from cnnkit.analysis import conv_parameters, dense_parameters, plot_parameters
    >>> counts = {"dense": dense_parameters(784, 128), "conv": conv_parameters(1, 16, 3)}
    >>> ax = plot_parameters(counts, highlight=["conv"], ax=Figure().add_subplot())
    """
    return drawing.bars(plotting.axes(ax, "plot_parameters"), counts, highlight, "parameters")


def plot_training_examples(counts: Mapping[str, int], *, ax: Any = None) -> Any:
    """Draw how many examples so many parameters ask for by the rule of thumb, beside what data sets have.

    Parameters
    ----------
    counts : dict of str to int
        Parameters, by the names to print.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from cnnkit.analysis import plot_training_examples
    >>> ax = plot_training_examples({"CNN": 10_000, "dense": 3_000_000}, ax=Figure().add_subplot())
    """
    ax = plotting.axes(ax, "plot_training_examples")
    places = range(len(counts), 0, -1)
    for place, count in zip(places, counts.values(), strict=True):
        ax.plot(
            training_examples_needed(count), (place, place), color=plotting.BLUE, linewidth=9, solid_capstyle="butt"
        )
    top = len(counts) + 0.75
    for i, (name, images) in enumerate(DATASETS.items()):
        colour = plotting.ORANGE
        ax.axvline(images, color=colour, linestyle="--", linewidth=1.5)
        side = "right" if i == 0 else "left"  # the first two lie close together
        ax.annotate(f" {name} ", (images, top), color=colour, ha=side, va="center")
    largest = max(training_examples_needed(count)[1] for count in counts.values())
    limits = min(DATASETS.values()) / 10, 2 * max(largest, *DATASETS.values())  # the names have room to the left
    ax.set(xscale="log", yticks=places, yticklabels=counts, xlim=limits, ylim=(0.4, top + 0.3))
    ax.set_xlabel("training examples: asked for (bars), images at hand (dashed)")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_neighbour_correlation(images: Mapping[str, Array], distances: Sequence[int], *, ax: Any = None) -> Any:
    """Draw how the correlation of two pixels falls with the distance between them.

    Parameters
    ----------
    images : dict of str to array
        Each of shape (..., H, W), by the names to print.
    distances : sequence of int
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError, TypeError
        As in `neighbour_correlation`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from cnnkit.analysis import plot_neighbour_correlation
    >>> from cnnkit.datasets import photograph
    >>> ax = plot_neighbour_correlation({"photograph": photograph()}, [1, 2, 4, 8], ax=Figure().add_subplot())
    """
    curves = {name: [neighbour_correlation(image, d) for d in distances] for name, image in images.items()}
    ax = plotting.axes(ax, "plot_neighbour_correlation")
    return drawing.lines(ax, curves, distances, xlabel="distance (pixels)", ylabel="correlation of two pixels")


def plot_equivariance_error(
    functions: Functions, x: Array, shifts: Sequence[int], *, stride: Any = 1, border: Any = 0, ax: Any = None
) -> Any:
    """Draw `equivariance_error` against the shift to the right.

    Parameters
    ----------
    functions : dict of str to callable
        By the names to print.
    x : numpy.ndarray, shape (N, C, \\*sizes)
    shifts : sequence of int
    stride, border
        As in `equivariance_error`; `stride` may be a dict by name.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError, TypeError
        As in `equivariance_error`.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from cnnkit import nn
    >>> from cnnkit.analysis import plot_equivariance_error
    >>> x = np.random.default_rng(0).random((1, 1, 16, 16), "float32")
    >>> ax = plot_equivariance_error({"conv": nn.Conv2d(1, 4, 3)}, x, range(5), ax=Figure().add_subplot())
    """
    curves = {}
    for name, fn in functions.items():
        step = stride[name] if isinstance(stride, Mapping) else stride
        curves[name] = [equivariance_error(fn, x, _right(x, s), stride=step, border=border) for s in shifts]
    ax = plotting.axes(ax, "plot_equivariance_error")
    return drawing.lines(ax, curves, shifts, xlabel="shift to the right (pixels)", ylabel="equivariance error")


def plot_invariance_error(functions: Functions, x: Array, shifts: Sequence[int], *, ax: Any = None) -> Any:
    """Draw `invariance_error` against the shift to the right.

    Parameters
    ----------
    functions : dict of str to callable
        By the names to print.
    x : numpy.ndarray, shape (N, C, \\*sizes)
    shifts : sequence of int
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError, TypeError
        As in `invariance_error`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from cnnkit import nn
    >>> from cnnkit.analysis import plot_invariance_error
    >>> from cnnkit.datasets import digits
    >>> ax = plot_invariance_error({"max": nn.MaxPool2d(2)}, digits(24).x[:9], range(9), ax=Figure().add_subplot())
    """
    curves = {name: [invariance_error(fn, x, _right(x, s)) for s in shifts] for name, fn in functions.items()}
    ax = plotting.axes(ax, "plot_invariance_error")
    return drawing.lines(ax, curves, shifts, xlabel="shift to the right (pixels)", ylabel="change of the answer")


def _right(x: Array, shift: int) -> tuple[int, ...]:
    return (*(0,) * (x.ndim - 3), shift)


def plot_receptive_field(layers: Any, input_size: Any, *, ax: Any = None) -> Any:
    """Draw what a number in the middle of each feature map sees of the image, as nested squares.

    Parameters
    ----------
    layers : Layer or iterable
        As in `receptive_field`; over two axes.
    input_size : int or (int, int)
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError, TypeError
        As in `receptive_field`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from cnnkit.analysis import plot_receptive_field
    >>> ax = plot_receptive_field([3, 3, 3], 7, ax=Figure().add_subplot())
    """
    size = input_size if isinstance(input_size, (tuple, list)) else (input_size, input_size)
    if len(size) != 2:
        raise ValueError(f"input_size is {input_size!r}, but only images of two axes are drawn")
    rows: dict[Any, Any] = {}
    for row in receptive_field(layers, tuple(size)):  # of layers that see the same, the first
        rows.setdefault(row.size, row)
    ax = plotting.axes(ax, "plot_receptive_field")
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0.95, 0.05, len(rows)))
    for row, shade in zip(reversed(rows.values()), shades, strict=True):
        _draw_field(ax, row, size, shade)
    step = max(1, max(size) // 8)
    ax.set(xlim=(0, 2 * size[1]), ylim=(size[0], 0), aspect="equal", ylabel="pixels")  # the names stand to the right
    ax.set(xticks=range(0, size[1] + 1, step), yticks=range(0, size[0] + 1, step))
    ax.spines[:].set_visible(False)
    if max(size) <= 16:
        ax.vlines(range(size[1] + 1), 0, size[0], color="0.75", linewidth=0.8)
        ax.hlines(range(size[0] + 1), 0, size[1], color="0.75", linewidth=0.8)
    ax.legend(title="sees pixels (of the image)", loc="center right", frameon=False, fontsize="small", borderpad=0)
    return ax


def _draw_field(ax: Any, row: Any, size: Sequence[int], colour: Array) -> None:
    from matplotlib.patches import Rectangle

    height, width = (row.size, row.size) if not isinstance(row.size, tuple) else row.size
    high, wide = min(height, size[0]), min(width, size[1])
    corner = (size[1] - wide) // 2, (size[0] - high) // 2
    label = f"{row.name}: {height:g} x {width:g} ({100 * row.coverage:.3g} %)"
    ax.add_patch(Rectangle(corner, wide, high, facecolor=colour, edgecolor="white", linewidth=1.5, label=label))


def plot_conv_matrix(
    weight: Array,
    input_shape: tuple[int, ...],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    ax: Any = None,
) -> Any:
    """Draw the matrix of a convolution: the same few weights in every row, and zeros.

    Parameters
    ----------
    weight, input_shape, stride, padding, dilation, groups
        As in `conv_matrix`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib or SciPy is not installed.
    ValueError, TypeError
        As in `conv_matrix`.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from cnnkit.analysis import plot_conv_matrix
    >>> weight = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> ax = plot_conv_matrix(weight, (1, 6, 6), ax=Figure().add_subplot())
    """
    matrix = conv_matrix(weight, input_shape, stride, padding, dilation, groups)
    ax = drawing.show_signed(plotting.axes(ax, "plot_conv_matrix"), matrix.toarray(), "weight")
    rows, columns = matrix.shape
    ax.locator_params(integer=True)
    ax.set(xlabel=f"{columns} inputs", ylabel=f"{rows} outputs")
    ax.set_title(f"{matrix.nnz:,} of {rows * columns:,} entries, from {weight.size} weights")
    return ax


def plot_sobel(image: Array, axis: int, *, ax: Any = None) -> Any:
    """Draw where an image gets brighter (orange) and darker (purple) along `axis`.

    Parameters
    ----------
    image : numpy.ndarray, shape (H, W)
    axis : {0, 1}
        As in `sobel`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError, TypeError
        If `image` or `axis` does not fit.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from cnnkit.analysis import plot_sobel
    >>> from cnnkit.datasets import photograph
    >>> ax = plot_sobel(photograph(), 1, ax=Figure().add_subplot())
    """
    edges = conv2d(image[None], sobel(axis, dtype=image.dtype)[None, None])[0]
    ax = drawing.no_ticks(drawing.show_signed(plotting.axes(ax, "plot_sobel"), edges))
    ax.set_title(f"Sobel along axis {axis}: {'horizontal' if axis in (0, -2) else 'vertical'} edges")
    return ax


def plot_feature_maps(
    model: Layer, x: Array, layer: str | int = -1, *, columns: int | None = None, ax: Any = None
) -> Any:
    """Draw what a layer makes of an image, channel beside channel.

    Parameters
    ----------
    model : Layer
    x : array
        What the model takes; the first image is drawn.
    layer : str or int
        The layer's place in the model as in `feature_maps`, or its number in that list.
    columns : int, optional
        How many channels in a row.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If there is no such layer, or it makes no images.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from cnnkit import nn
    >>> from cnnkit.analysis import plot_feature_maps
    >>> from cnnkit.datasets import photograph
    >>> model = nn.Sequential(nn.Conv2d(1, 6, 3, rng=0), nn.ReLU())
    >>> ax = plot_feature_maps(model, photograph()[None, None], "1", ax=Figure().add_subplot())
    """
    maps = feature_maps(model, x)
    names = [one.name for one in maps]
    at = names.index(layer) if layer in names else layer
    if not isinstance(at, int) or not -len(maps) <= at < len(maps):
        raise ValueError(f"layer is {layer!r}, but the layers are {', '.join(names)}")
    images = _on_the_host(maps[at].output)[0]
    if images.ndim != 3:
        raise ValueError(f"layer {names[at]} makes {maps[at].output.shape}, but only (N, C, H, W) can be drawn")
    ax = plotting.axes(ax, "plot_feature_maps")
    drawing.no_ticks(drawing.show_signed(ax, _mosaic(images, columns)))
    kind = type(maps[at].layer).__name__
    ax.set_title(f"{names[at]} {kind}: {len(images)} x {images.shape[1]} x {images.shape[2]}".strip())
    ax.spines[:].set_visible(False)
    return ax


def _on_the_host(array: Array) -> Array:
    return array.get() if arrays.family(array) == "cupy" else array


def _mosaic(images: Array, columns: int | None) -> Array:
    """(C, H, W) as one image, with gaps of nothing between the channels."""
    channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(channels))
    rows = -(-channels // columns)
    gap = max(1, height // 16)
    mosaic = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        mosaic[top : top + height, left : left + width] = image
    return np.ma.masked_invalid(mosaic)


def plot_summary(model: Layer, input_shape: tuple[int, ...], *, ax: Any = None) -> Any:
    """Draw where a model's parameters and multiply-adds are, layer by layer.

    Parameters
    ----------
    model : Layer
    input_shape : tuple of int
        As in `summary`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError, TypeError
        As in `summary`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from cnnkit import nn
    >>> from cnnkit.analysis import plot_summary
    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Dense(288, 10))
    >>> ax = plot_summary(model, (1, 1, 8, 8), ax=Figure().add_subplot())
    """
    table = summary(model, input_shape)
    rows = [row for row in table.rows if row.parameters and not children(row.layer)]
    ax = plotting.axes(ax, "plot_summary")
    places = np.arange(len(rows), 0, -1.0)
    parts = {"parameters": [row.parameters for row in rows], "multiply-adds": [row.multiply_adds for row in rows]}
    for offset, colour, (name, values) in zip((0.2, -0.2), plotting.COLOURS, parts.items(), strict=False):
        total = sum(values) or 1
        percent = [100 * value / total for value in values]
        ax.barh(places + offset, percent, 0.38, color=colour, label=f"{name}: {in_units(sum(values))}")
        for place, part in zip(places + offset, percent, strict=True):
            ax.annotate(f"{part:.2g} %", (part, place), xytext=(4, 0), textcoords="offset points", va="center")
    ax.set(xlabel="part of the whole (%)", yticks=places, xlim=(0, 112))
    ax.set_yticklabels([f"{row.name} {type(row.layer).__name__}".strip() for row in rows])
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax
