"""Counting: parameters, what sharing them saves, and how many examples they ask for."""

import math
from typing import Any, NamedTuple

from cnnkit import geometry
from cnnkit.geometry import boolean, integer


class Savings(NamedTuple):
    """A dense layer and a convolution on the same images.

    Attributes
    ----------
    dense, conv : int
        The parameters of each.
    ratio : float
        How many times as many the dense layer has.
    connections : int
        The products that the convolution sums, each a connection of an input with an output, bias left out; the
        weights that a dense layer would have if it had no others.
    """

    dense: int
    conv: int
    ratio: float
    connections: int


def conv_parameters(
    in_channels: int, out_channels: int, kernel_size: Any, *, bias: bool = True, groups: int = 1
) -> int:
    """Count the parameters of a convolution: ``out_channels * (in_channels / groups * taps + 1)``.

    They do not depend on the size of the image: each filter is used everywhere.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or tuple of int
        An int for a square of two axes, or the size along each axis (of one, two or three).
    bias : bool
        Whether each output channel has one.
    groups : int
        Into how many parts the channels are divided.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If a number is below 1, or `groups` does not divide the channels.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> from cnnkit.analysis import conv_parameters
    >>> conv_parameters(1, 8, 3)
    80
    >>> conv_parameters(3, 32, 3, bias=False)
    864
    """
    channels, filters = integer(in_channels, "in_channels"), integer(out_channels, "out_channels")
    groups = integer(groups, "groups")
    for name, number in (("in_channels", channels), ("out_channels", filters)):
        if number % groups:
            raise ValueError(f"{name} is {number}, which groups={groups} does not divide")
    return filters * (channels // groups * math.prod(_kernel(kernel_size)) + boolean(bias, "bias"))


def dense_parameters(in_features: int, out_features: int, *, bias: bool = True) -> int:
    """Count the parameters of a dense layer: ``in_features * out_features + out_features``.

    Parameters
    ----------
    in_features, out_features : int
        Of an image, the features are all its numbers: channels times height times width.
    bias : bool
        Whether each output has one.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If a number is below 1.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> from cnnkit.analysis import dense_parameters
    >>> dense_parameters(784, 100)
    78500
    >>> dense_parameters(224 * 224 * 3, 1000)
    150529000
    """
    features = integer(in_features, "in_features")
    return integer(out_features, "out_features") * (features + boolean(bias, "bias"))


def parameter_savings(
    input_shape: tuple[int, ...],
    out_features: int | None,
    out_channels: int,
    kernel_size: Any,
    *,
    bias: bool = True,
    groups: int = 1,
) -> Savings:
    """Compare a dense layer with a convolution on the same images.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, \\*sizes) of an image.
    out_features : int or None
        The outputs of the dense layer; None for as many as the convolution has, so that both make arrays of the same
        size: then the convolution is the dense layer with nearly all weights zero and the others tied.
    out_channels : int
        The filters of the convolution, which is padded so that its results are as large as the image.
    kernel_size : int or tuple of int
        An int for all axes, or the size along each.
    bias : bool
        Whether both have biases.
    groups : int
        Of the convolution.

    Returns
    -------
    Savings
        ``(dense, conv, ratio, connections)``.

    Raises
    ------
    ValueError
        If a number is below 1, or shapes do not fit together.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> from cnnkit.analysis import parameter_savings
    >>> parameter_savings((1, 28, 28), 128, 16, 3, bias=False)[:3]  # 128 neurons against 16 filters
    (100352, 144, 696.8888888888889)
    >>> parameter_savings((1, 224, 224), None, 1, 3, bias=False)  # the whole matrix against its 9 numbers
    Savings(dense=2517630976, conv=9, ratio=279736775.1111111, connections=448900)
    """
    shape = tuple(integer(size, "input_shape") for size in input_shape)
    ndim = len(shape) - 1
    if ndim not in geometry.AXES:
        raise ValueError(f"input_shape is {shape}, but (channels, *sizes) of one to three axes is needed")
    kernel = geometry.per_axis(kernel_size, ndim, "kernel_size")
    conv = conv_parameters(shape[0], out_channels, kernel, bias=bias, groups=groups)
    plan = geometry.conv(ndim, shape, (out_channels, shape[0] // groups, *kernel), 1, "same", 1, groups)
    outputs = math.prod(plan.output_shape) if out_features is None else out_features
    dense = dense_parameters(math.prod(shape), outputs, bias=bias)
    meetings = sum(math.prod(part.stop - part.start for part in to[2:]) for _, to, _ in geometry.taps(plan))
    return Savings(dense, conv, dense / conv, out_channels * (shape[0] // groups) * meetings)


def training_examples_needed(parameters: int, per_parameter: tuple[float, float] = (5, 10)) -> tuple[int, int]:
    """Estimate how many training examples so many parameters ask for: 5 to 10 for each, as a rule of thumb.

    The rule is old and rough: regularisation, augmentation and pretraining get by with fewer, and networks with more
    parameters than examples are trained every day. It says what is large, not what is impossible.

    Parameters
    ----------
    parameters : int
    per_parameter : (float, float)
        The least and the most examples for one parameter.

    Returns
    -------
    (int, int)

    Raises
    ------
    ValueError
        If `parameters` is below 1, or `per_parameter` is no (least, most) pair of positive numbers.
    TypeError
        If `parameters` is no int.

    Examples
    --------
    >>> from cnnkit.analysis import training_examples_needed
    >>> training_examples_needed(800_000)
    (4000000, 8000000)
    """
    count = integer(parameters, "parameters")
    if len(per_parameter) != 2 or not 0 < per_parameter[0] <= per_parameter[1]:
        raise ValueError(f"per_parameter is {per_parameter!r}, but a (least, most) pair of positive numbers is needed")
    least, most = per_parameter
    return round(count * least), round(count * most)


def possible_images(pixels: int, levels: int = 256) -> int:
    """Count the images that there could be: ``levels ** pixels``, exactly.

    Parameters
    ----------
    pixels : int
        How many numbers an image has (of a colour image, three for each point).
    levels : int
        How many values each can take.

    Returns
    -------
    int
        ``math.log10`` of it is the power of ten to print.

    Raises
    ------
    ValueError
        If a number is below 1.
    TypeError
        If an argument is no int.

    Examples
    --------
    >>> import math
    >>> from cnnkit.analysis import possible_images
    >>> round(math.log10(possible_images(28 * 28)))
    1888
    """
    return integer(levels, "levels") ** integer(pixels, "pixels")


def _kernel(kernel_size: Any) -> tuple[int, ...]:
    ndim = len(kernel_size) if isinstance(kernel_size, (tuple, list)) else 2
    if ndim not in geometry.AXES:
        raise ValueError(f"kernel_size is {kernel_size!r}, but an int or one to three ints are needed")
    return geometry.per_axis(kernel_size, ndim, "kernel_size")
