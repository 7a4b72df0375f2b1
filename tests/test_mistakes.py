"""Users' mistakes: each is one sentence that names the argument, what was given and what is needed.

A mistake is a change to a call that works: ``(changed arguments, error, sentence)``.
"""

import random
import re

import numpy as np
import pytest

import cnnkit


def ones(*shape, dtype="float32"):
    return np.ones(shape, dtype)


def read_only(*shape):
    return np.broadcast_to(np.float32(1), shape)


LABELS = np.array([0, 1, 2, 4])
CHANNELS = ("gamma", "beta", "running_mean", "running_var")
INDICES = np.zeros((2, 3, 4, 4), np.int64)
SHAPE = (2, 3, 8, 9)
POINTWISE = ("leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh")

GOOD = {  # calls that work
    "conv1d": {"x": ones(2, 4, 9), "weight": ones(6, 4, 3)},
    "conv2d": {"x": ones(2, 6, 8, 9), "weight": ones(8, 3, 3, 3), "bias": ones(8), "groups": 2},
    "conv3d": {"x": ones(1, 2, 4, 5, 6), "weight": ones(3, 2, 3, 3, 3)},
    "conv1d_backward": {"grad_output": ones(2, 6, 7), "x": ones(2, 4, 9), "weight": ones(6, 4, 3)},
    "conv2d_backward": {
        "grad_output": ones(2, 8, 3, 4),
        "x": ones(2, 6, 8, 9),
        "weight": ones(8, 3, 3, 3),
        "stride": 2,
        "groups": 2,
    },
    "conv3d_backward": {"grad_output": ones(1, 3, 2, 3, 4), "x": ones(1, 2, 4, 5, 6), "weight": ones(3, 2, 3, 3, 3)},
    "conv_transpose1d": {"x": ones(2, 4, 5), "weight": ones(4, 6, 3)},
    "conv_transpose2d": {"x": ones(2, 6, 3, 4), "weight": ones(6, 4, 3, 3), "bias": ones(8), "groups": 2, "stride": 2},
    "conv_transpose3d": {"x": ones(1, 2, 3, 3, 3), "weight": ones(2, 3, 2, 2, 2)},
    "conv_transpose2d_backward": {
        "grad_output": ones(2, 8, 7, 9),
        "x": ones(2, 6, 3, 4),
        "weight": ones(6, 4, 3, 3),
        "stride": 2,
        "groups": 2,
    },
    "max_pool1d": {"x": ones(2, 3, 9), "kernel_size": 2},
    "max_pool2d": {"x": ones(*SHAPE), "kernel_size": 2},
    "max_pool3d": {"x": ones(1, 2, 4, 4, 4), "kernel_size": 2},
    "max_pool2d_backward": {"grad_output": ones(2, 3, 4, 4), "indices": INDICES, "input_shape": SHAPE},
    "avg_pool1d": {"x": ones(2, 3, 9), "kernel_size": 2},
    "avg_pool2d": {"x": ones(*SHAPE), "kernel_size": 2},
    "avg_pool3d": {"x": ones(1, 2, 4, 4, 4), "kernel_size": 2},
    "avg_pool2d_backward": {"grad_output": ones(2, 3, 4, 4), "input_shape": SHAPE, "kernel_size": 2},
    "adaptive_max_pool2d": {"x": ones(*SHAPE), "output_size": (3, None)},
    "adaptive_avg_pool1d": {"x": ones(2, 3, 9), "output_size": 2},
    "adaptive_avg_pool2d": {"x": ones(*SHAPE), "output_size": 3},
    "adaptive_max_pool2d_backward": {"grad_output": ones(2, 3, 4, 4), "indices": INDICES, "input_shape": SHAPE},
    "adaptive_avg_pool2d_backward": {"grad_output": ones(2, 3, 4, 4), "input_shape": SHAPE},
    "max_unpool2d": {"x": ones(2, 3, 4, 4), "indices": INDICES, "kernel_size": 2},
    "max_unpool2d_backward": {"grad_output": ones(*SHAPE), "indices": INDICES},
    "lp_pool2d": {"x": ones(*SHAPE), "norm_type": 2, "kernel_size": 2},
    "lp_pool2d_backward": {"grad_output": ones(2, 3, 4, 4), "x": ones(*SHAPE), "norm_type": 2, "kernel_size": 2},
    "dense": {"x": ones(4, 6), "weight": ones(5, 6), "bias": ones(5)},
    "dense_backward": {"grad_output": ones(4, 5), "x": ones(4, 6), "weight": ones(5, 6)},
    "relu": {"x": ones(2, 3)},
    "softmax": {"x": ones(2, 3)},
    "log_softmax": {"x": ones(2, 3)},
    "relu_backward": {"grad_output": ones(2, 3), "x": ones(2, 3)},
    "softmax_backward": {"grad_output": ones(2, 3), "x": ones(2, 3)},
    "log_softmax_backward": {"grad_output": ones(2, 3), "x": ones(2, 3)},
    "cross_entropy": {"logits": ones(4, 5), "labels": LABELS},
    "cross_entropy_backward": {"grad_output": 1.0, "logits": ones(4, 5), "labels": LABELS},
    **{name: {"x": ones(2, 3)} for name in POINTWISE},
    **{f"{name}_backward": {"grad_output": ones(2, 3), "x": ones(2, 3)} for name in POINTWISE},
    "dropout": {"x": ones(2, 3), "rate": 0.5, "rng": np.random.default_rng(0)},
    "dropout_backward": {"grad_output": ones(2, 3), "kept": ones(2, 3) > 0, "rate": 0.5},
    "mse_loss": {"y": ones(2, 3), "target": ones(2, 3)},
    "mse_loss_backward": {"grad_output": 1.0, "y": ones(2, 3), "target": ones(2, 3)},
    "set_num_threads": {"n": 1},
    "batch_norm": {"x": ones(4, 3, 5), **dict.fromkeys(CHANNELS, ones(3)), "training": False},
    "batch_norm_backward": {
        "grad_output": ones(4, 3, 5),
        "x": ones(4, 3, 5),
        **dict.fromkeys(CHANNELS[:1] + CHANNELS[2:], ones(3)),
        "training": False,
    },
    "layer_norm": {"x": ones(4, 3, 5), "normalized_shape": (3, 5), "gamma": ones(3, 5), "beta": ones(3, 5)},
    "layer_norm_backward": {"grad_output": ones(4, 5), "x": ones(4, 5), "normalized_shape": 5, "gamma": ones(5)},
    "group_norm": {"x": ones(2, 6, 5), "num_groups": 3, "gamma": ones(6), "beta": ones(6)},
    "group_norm_backward": {"grad_output": ones(2, 6, 5), "x": ones(2, 6, 5), "num_groups": 3, "gamma": ones(6)},
}

FLOATS = "float16, bfloat16, float32 or float64 is needed"
INTEGERS = "int8, int16, int32, int64, uint8, uint16, uint32 or uint64 is needed"
PADDING = "needs an int, 2 ints or 2 (before, after) pairs"
PADDINGS = "the known names are 'valid', 'same', 'same_lower'"
NEEDS = "must be a tuple of some of 'x', 'weight', 'bias'"
ACTIVATIONS = "must be one of None, 'relu', 'leaky_relu', 'elu', 'gelu', 'silu', 'sigmoid', 'tanh'"
AN_ARRAY = "but an array is needed: write numpy.asarray"


def not_arrays(name, dtype="float32"):
    """What is given in place of an array of floats."""
    write = f"{AN_ARRAY}({name}, dtype='{dtype}')"
    return [
        ({name: None}, TypeError, f"{name} is None, but an array is needed"),
        ({name: [[1.0]]}, TypeError, f"{name} is a list, {write}"),
        ({name: 1.5}, TypeError, f"{name} is a float, {write}"),
        ({name: "x.npy"}, TypeError, f"{name} is a str, {write}"),
        (
            {name: np.ma.ones((2, 3))},
            TypeError,
            f"{name} is a masked array, but cnnkit knows no masks: write {name}.filled(value)",
        ),
    ]


def not_floats(name, like):
    """Arrays of kinds that are not computed with."""
    return [
        ({name: like.astype(kind)}, TypeError, f"{name} is {kind}, but {FLOATS}")
        for kind in ("int64", "uint8", "bool", "complex64", "object")
    ]


CONV = [
    # shapes
    (
        {"weight": ones(8, 2, 3, 3)},
        ValueError,
        "x has 6 channels, but weight of shape (8, 2, 3, 3) with groups=2 needs 4",
    ),
    ({"x": ones(2, 8, 9, 6)}, ValueError, "x has 8 channels, but weight of shape (8, 3, 3, 3) with groups=2 needs 6"),
    ({"groups": 3}, ValueError, "weight of shape (8, 3, 3, 3) has 8 output channels, which groups=3 does not divide"),
    ({"groups": 1}, ValueError, "x has 6 channels, but weight of shape (8, 3, 3, 3) with groups=1 needs 3"),
    ({"x": ones(8, 9)}, ValueError, "x has shape (8, 9), but conv2d needs (N, C, H, W) or (C, H, W)"),
    ({"x": ones(1, 2, 6, 8, 9)}, ValueError, "x has shape (1, 2, 6, 8, 9), but conv2d needs (N, C, H, W) or (C, H, W)"),
    (
        {"weight": ones(8, 3, 3)},
        ValueError,
        "weight has shape (8, 3, 3), but conv2d needs (C_out, C_in // groups, kH, kW), none of them 0",
    ),
    (
        {"weight": ones(8, 3, 0, 3)},
        ValueError,
        "weight has shape (8, 3, 0, 3), but conv2d needs (C_out, C_in // groups, kH, kW), none of them 0",
    ),
    (
        {"x": ones(2, 6, 2, 9)},
        ValueError,
        "a window of 3 with dilation 1 spans 3 along H, but x has 2 there, 2 with padding",
    ),
    (
        {"dilation": (1, 6), "padding": 1},
        ValueError,
        "a window of 3 with dilation 6 spans 13 along W, but x has 9 there, 11 with padding",
    ),
    # parameters
    ({"stride": 0}, ValueError, "stride is 0, but must be at least 1"),
    ({"stride": -2}, ValueError, "stride is -2, but must be at least 1"),
    ({"stride": 2.0}, TypeError, "stride is 2.0, but an int is needed"),
    ({"stride": True}, TypeError, "stride is True, but an int is needed"),
    ({"stride": (2, True)}, TypeError, "stride is True, but an int is needed"),
    ({"stride": "2"}, TypeError, "stride is '2', but an int is needed"),
    ({"stride": None}, TypeError, "stride is None, but an int is needed"),
    ({"stride": (1, 2, 3)}, ValueError, "stride is (1, 2, 3), but needs an int or 2 ints"),
    ({"dilation": 0}, ValueError, "dilation is 0, but must be at least 1"),
    ({"dilation": 1.5}, TypeError, "dilation is 1.5, but an int is needed"),
    ({"dilation": (2,)}, ValueError, "dilation is (2,), but needs an int or 2 ints"),
    ({"groups": 0}, ValueError, "groups is 0, but must be at least 1"),
    ({"groups": False}, TypeError, "groups is False, but an int is needed"),
    ({"groups": (2, 2)}, TypeError, "groups is (2, 2), but an int is needed"),
    ({"padding": -1}, ValueError, "padding is -1, but must be at least 0"),
    ({"padding": ((1, -1), (0, 0))}, ValueError, "padding is -1, but must be at least 0"),
    ({"padding": "SAME"}, ValueError, f"padding is 'SAME', but {PADDINGS}"),
    ({"padding": "full"}, ValueError, f"padding is 'full', but {PADDINGS}"),
    ({"padding": (1, 1, 1, 1)}, ValueError, f"padding is (1, 1, 1, 1), but {PADDING}"),
    (
        {"padding": ((1, 1, 1), (0, 0))},
        ValueError,
        "padding is ((1, 1, 1), (0, 0)), but (1, 1, 1) is no (before, after) pair",
    ),
    ({"padding": None}, TypeError, f"padding is None, but {PADDING}"),
    ({"padding": 1.5}, TypeError, f"padding is 1.5, but {PADDING}"),
    ({"padding": b"same"}, TypeError, f"padding is b'same', but {PADDING}"),
]
NOT_GIVEN_BACK = [  # the parameters of the forward only
    (
        {"x": ones(2, 6, 8, 0), "padding": "same"},
        ValueError,
        "a window of 3 with dilation 1 spans 3 along W, but x has 0 there, 2 with padding",
    ),
    ({"bias": ones(3)}, ValueError, "bias has shape (3,), but weight of shape (8, 3, 3, 3) needs (8,)"),
    ({"bias": ones(1)}, ValueError, "bias has shape (1,), but weight of shape (8, 3, 3, 3) needs (8,)"),
    ({"bias": ones(8, 1, 1)}, ValueError, "bias has shape (8, 1, 1), but weight of shape (8, 3, 3, 3) needs (8,)"),
    ({"bias": ones(8, dtype="float64")}, TypeError, "bias is float64, but x is float32: one dtype a call"),
    ({"activation": "gelu2"}, ValueError, f"activation is 'gelu2', but {ACTIVATIONS}"),
    ({"activation": True}, ValueError, f"activation is True, but {ACTIVATIONS}"),
    ({"activation": np.array([1, 2])}, ValueError, f"activation is array([1, 2]), but {ACTIVATIONS}"),
    *not_arrays("bias")[1:],
]


def outs(shape, wrong):
    """Mistakes with ``out=``."""
    return [
        ({"out": ones(*wrong)}, ValueError, f"out has shape {wrong}, but the result has shape {shape}"),
        ({"out": ones(*shape, dtype="float64")}, TypeError, "out is float64, but the result is float32"),
        ({"out": read_only(*shape)}, ValueError, "out is read-only or unaligned, but must take the result"),
        ({"out": [0.0]}, TypeError, f"out is a list, {AN_ARRAY}(out, dtype='float32')"),
        (
            {"out": np.ma.ones(shape, "float32")},
            TypeError,
            "out is a masked array, but cnnkit knows no masks: write out.filled(value)",
        ),
    ]


NOT_NEEDED = [
    ({"needs": ("y",)}, ValueError, f"needs is ('y',), but {NEEDS}"),
    ({"needs": ("x", "b")}, ValueError, f"needs is ('x', 'b'), but {NEEDS}"),
    ({"needs": "x"}, ValueError, f"needs is 'x', but {NEEDS}"),
    ({"needs": ("weight", 1)}, ValueError, f"needs is ('weight', 1), but {NEEDS}"),
    ({"needs": [["x"]]}, ValueError, f"needs is [['x']], but {NEEDS}"),
    ({"needs": None}, TypeError, f"needs is None, but {NEEDS}"),
    ({"needs": 5}, TypeError, f"needs is 5, but {NEEDS}"),
]
CONV_TRANSPOSE = [
    ({"weight": ones(8, 2, 3, 3)}, ValueError, "x has 6 channels, but weight of shape (8, 2, 3, 3) needs 8"),
    ({"groups": 4}, ValueError, "weight of shape (6, 4, 3, 3) has 6 input channels, which groups=4 does not divide"),
    ({"x": ones(6, 3)}, ValueError, "x has shape (6, 3), but conv_transpose2d needs (N, C, H, W) or (C, H, W)"),
    (
        {"weight": ones(6, 4, 3)},
        ValueError,
        "weight has shape (6, 4, 3), but conv_transpose2d needs (C_in, C_out // groups, kH, kW), none of them 0",
    ),
    (
        {"weight": ones(6, 0, 3, 3)},
        ValueError,
        "weight has shape (6, 0, 3, 3), but conv_transpose2d needs (C_in, C_out // groups, kH, kW), none of them 0",
    ),
    ({"x": ones(2, 6, 3, 0)}, ValueError, "x has 0 along W, but needs at least 1 there"),
    (
        {"padding": ((0, 0), (4, 5))},
        ValueError,
        "padding takes 9 along W, but x is spread to 9 there, and the result needs at least 1",
    ),
    (
        {"padding": (5, 0), "output_padding": 1},
        ValueError,
        "padding takes 10 along H, but x is spread to 8 there, and the result needs at least 1",
    ),
    (
        {"output_padding": (0, 2)},
        ValueError,
        "output_padding is 2 along W, but must be smaller than the stride, 2, or the dilation, 1",
    ),
    (
        {"output_padding": 3, "dilation": 3},
        ValueError,
        "output_padding is 3 along H, but must be smaller than the stride, 2, or the dilation, 3",
    ),
    (
        {"output_padding": 1, "padding": "same_lower"},
        ValueError,
        "output_padding is 1 along H, but must be 0 with padding 'same_lower', which makes the result 6 long there",
    ),
    ({"output_padding": -1}, ValueError, "output_padding is -1, but must be at least 0"),
    ({"output_padding": 0.5}, TypeError, "output_padding is 0.5, but an int is needed"),
    ({"output_padding": "same"}, TypeError, "output_padding is 'same', but an int is needed"),
    ({"output_padding": True}, TypeError, "output_padding is True, but an int is needed"),
    ({"output_padding": (1, 1, 1)}, ValueError, "output_padding is (1, 1, 1), but needs an int or 2 ints"),
    ({"stride": 0}, ValueError, "stride is 0, but must be at least 1"),
    ({"dilation": 1.5}, TypeError, "dilation is 1.5, but an int is needed"),
    ({"groups": 0}, ValueError, "groups is 0, but must be at least 1"),
    ({"padding": -1}, ValueError, "padding is -1, but must be at least 0"),
    ({"padding": "full"}, ValueError, f"padding is 'full', but {PADDINGS}"),
    ({"padding": (1, 1, 1)}, ValueError, f"padding is (1, 1, 1), but {PADDING}"),
    *not_arrays("x"),
    *not_arrays("weight"),
]
POOL = [
    ({"kernel_size": 0}, ValueError, "kernel_size is 0, but must be at least 1"),
    ({"kernel_size": (2, -1)}, ValueError, "kernel_size is -1, but must be at least 1"),
    ({"kernel_size": 2.0}, TypeError, "kernel_size is 2.0, but an int is needed"),
    ({"kernel_size": True}, TypeError, "kernel_size is True, but an int is needed"),
    ({"kernel_size": None}, TypeError, "kernel_size is None, but an int is needed"),
    ({"kernel_size": (2,)}, ValueError, "kernel_size is (2,), but needs an int or 2 ints"),
    (
        {"kernel_size": 10},
        ValueError,
        "a window of 10 with dilation 1 spans 10 along H, but x has 8 there, 8 with padding",
    ),
    ({"stride": 0}, ValueError, "stride is 0, but must be at least 1"),
    ({"stride": 1.0}, TypeError, "stride is 1.0, but an int is needed"),
    ({"stride": (1, 1, 1)}, ValueError, "stride is (1, 1, 1), but needs an int or 2 ints"),
    ({"padding": 2}, ValueError, "padding is 2, but a window that spans 2 may have at most half of it, 1"),
    (
        {"kernel_size": 3, "padding": ((1, 2), (0, 0))},
        ValueError,
        "padding is 2, but a window that spans 3 may have at most half of it, 1",
    ),
    ({"padding": -1}, ValueError, "padding is -1, but must be at least 0"),
    ({"padding": "full"}, ValueError, f"padding is 'full', but {PADDINGS}"),
    ({"ceil_mode": 1}, TypeError, "ceil_mode is 1, but True or False is needed"),
    ({"ceil_mode": None}, TypeError, "ceil_mode is None, but True or False is needed"),
]
DIVISORS = [
    ({"divisor_override": 0}, ValueError, "divisor_override is 0, but nothing can be divided by it"),
    ({"divisor_override": 2.5}, TypeError, "divisor_override is 2.5, but an int is needed"),
    ({"divisor_override": "2"}, TypeError, "divisor_override is '2', but an int is needed"),
    ({"divisor_override": True}, TypeError, "divisor_override is True, but an int is needed"),
    ({"divisor_override": (2, 2)}, TypeError, "divisor_override is (2, 2), but an int is needed"),
    ({"count_include_pad": "no"}, TypeError, "count_include_pad is 'no', but True or False is needed"),
    ({"count_include_pad": None}, TypeError, "count_include_pad is None, but True or False is needed"),
]
INPUT_SHAPES = [
    ({"input_shape": 8}, TypeError, "input_shape is 8, but a tuple of ints is needed"),
    ({"input_shape": ones(*SHAPE)}, TypeError, "input_shape is an array, but a tuple of ints is needed"),
    ({"input_shape": None}, TypeError, "input_shape is None, but a tuple of ints is needed"),
    ({"input_shape": (2, 3, 8, 9.0)}, TypeError, "input_shape is (2, 3, 8, 9.0), but a tuple of ints is needed"),
    (
        {"input_shape": (8, 9)},
        ValueError,
        "input_shape has shape (8, 9), but pooling over 2 axes needs (N, C, H, W) or (C, H, W)",
    ),
    ({"input_shape": (2, 3, -8, 9)}, ValueError, "input_shape is -8, but must be at least 0"),
    (
        {"input_shape": (2, 4, 8, 9)},
        ValueError,
        "grad_output has shape (2, 3, 4, 4), which does not fit an input of shape (2, 4, 8, 9)",
    ),
    (
        {"input_shape": (3, 8, 9)},
        ValueError,
        "grad_output has shape (2, 3, 4, 4), which does not fit an input of shape (3, 8, 9)",
    ),
]
OUTPUT_SIZES = [
    ({"output_size": 0}, ValueError, "output_size is 0, but must be at least 1"),
    ({"output_size": (3, -1)}, ValueError, "output_size is -1, but must be at least 1"),
    ({"output_size": 2.0}, TypeError, "output_size is 2.0, but an int is needed"),
    ({"output_size": "3"}, TypeError, "output_size is '3', but an int is needed"),
    ({"output_size": (3, True)}, TypeError, "output_size is True, but an int is needed"),
    ({"output_size": (3,)}, ValueError, "output_size is (3,), but needs an int or None, or 2 of them"),
    ({"output_size": (2, 3, 3)}, ValueError, "output_size is (2, 3, 3), but needs an int or None, or 2 of them"),
]
NORM_TYPES = [
    ({"norm_type": 0}, ValueError, "norm_type is 0, but must be above 0"),
    ({"norm_type": -2.0}, ValueError, "norm_type is -2.0, but must be above 0"),
    ({"norm_type": float("nan")}, ValueError, "norm_type is nan, but must be above 0"),
    ({"norm_type": None}, TypeError, "norm_type is None, but a number is needed"),
    ({"norm_type": "inf"}, TypeError, "norm_type is 'inf', but a number is needed"),
    ({"norm_type": True}, TypeError, "norm_type is True, but a number is needed"),
    ({"norm_type": 1j}, TypeError, "norm_type is 1j, but a number is needed"),
    ({"norm_type": ones(2)}, TypeError, "norm_type is array([1., 1.], dtype=float32), but a number is needed"),
    ({"dilation": 0}, ValueError, "dilation is 0, but must be at least 1"),
]
PLACES = [  # indices, for planes of 8 x 8 or 8 x 9
    ({"indices": INDICES - 1}, ValueError, "indices reach from -1 to -1, but {0} needs 0 to {1}"),
    ({"indices": INDICES + 72}, ValueError, "indices reach from 72 to 72, but {0} needs 0 to {1}"),
    ({"indices": INDICES.astype("int32")}, TypeError, "indices is int32, but int64 is needed"),
    *not_arrays("indices", "int64"),
]


def places(plane, largest):
    """Mistakes with indices, in the words of a plane whose last place is `largest`."""
    return [(changes, error, sentence.format(plane, largest)) for changes, error, sentence in PLACES]


ALIKE = [
    ({"grad_output": ones(3, 2)}, ValueError, "grad_output has shape (3, 2), but x needs (2, 3)"),
    ({"grad_output": ones(3)}, ValueError, "grad_output has shape (3,), but x needs (2, 3)"),
    ({"grad_output": ones(2, 1)}, ValueError, "grad_output has shape (2, 1), but x needs (2, 3)"),
    (
        {"grad_output": ones(2, 3, dtype="float64")},
        TypeError,
        "x is float32, but grad_output is float64: one dtype a call",
    ),
    *not_arrays("grad_output"),
    *not_floats("grad_output", ones(2, 3)),
]
X = [*not_arrays("x"), *not_floats("x", ones(2, 3))]
AXES = [
    ({"axis": 2}, ValueError, "axis is 2, but x has 2 axes"),
    ({"axis": -3}, ValueError, "axis is -3, but x has 2 axes"),
    ({"axis": 1.0}, TypeError, "axis is 1.0, but an int is needed"),
    ({"axis": None}, TypeError, "axis is None, but an int is needed"),
    ({"axis": (0, 1)}, TypeError, "axis is (0, 1), but an int is needed"),
    ({"axis": True}, TypeError, "axis is True, but an int is needed"),
]
PARAMETER = {
    "leaky_relu": [
        ({"negative_slope": "a"}, TypeError, "negative_slope is 'a', but a number is needed"),
        ({"negative_slope": True}, TypeError, "negative_slope is True, but a number is needed"),
        ({"negative_slope": None}, TypeError, "negative_slope is None, but a number is needed"),
    ],
    "elu": [
        ({"alpha": 1j}, TypeError, "alpha is 1j, but a number is needed"),
        ({"alpha": True}, TypeError, "alpha is True, but a number is needed"),
    ],
    "gelu": [
        ({"approximate": "erf"}, ValueError, "approximate is 'erf', but must be 'none' or 'tanh'"),
        ({"approximate": None}, ValueError, "approximate is None, but must be 'none' or 'tanh'"),
    ],
}
RATES = [
    ({"rate": 1.0}, ValueError, "rate is 1.0, but must be at least 0 and below 1"),
    ({"rate": -0.1}, ValueError, "rate is -0.1, but must be at least 0 and below 1"),
    ({"rate": float("nan")}, ValueError, "rate is nan, but must be at least 0 and below 1"),
    ({"rate": "half"}, TypeError, "rate is 'half', but a number is needed"),
    ({"rate": True}, TypeError, "rate is True, but a number is needed"),
]
SQUARES = [
    *not_arrays("y"),
    *not_floats("y", ones(2, 3)),
    *not_arrays("target"),
    ({"target": ones(2, 3, dtype="float64")}, TypeError, "target is float64, but y is float32: one dtype a call"),
    ({"target": ones(2, 1)}, ValueError, "target has shape (2, 1), but y needs (2, 3)"),
    (
        {"y": ones(0, 3), "target": ones(0, 3)},
        ValueError,
        "y has shape (0, 3), but the mean of no losses does not exist: use reduction='sum'",
    ),
    ({"reduction": "avg"}, ValueError, "reduction is 'avg', but must be one of 'mean', 'sum', 'none'"),
]
LOSS = [
    ({"labels": LABELS + 1}, ValueError, "labels reach from 1 to 5, but logits of shape (4, 5) need 0 to 4"),
    ({"labels": LABELS - 1}, ValueError, "labels reach from -1 to 3, but logits of shape (4, 5) need 0 to 4"),
    (
        {"labels": np.eye(5, dtype=int)[LABELS]},
        ValueError,
        "labels has shape (4, 5), but logits of shape (4, 5) needs (4,)",
    ),
    ({"labels": LABELS[:3]}, ValueError, "labels has shape (3,), but logits of shape (4, 5) needs (4,)"),
    ({"logits": ones(4, 5, 2)}, ValueError, "labels has shape (4,), but logits of shape (4, 5, 2) needs (4, 2)"),
    ({"labels": LABELS.astype("float32")}, TypeError, f"labels is float32, but {INTEGERS}"),
    ({"labels": LABELS > 0}, TypeError, f"labels is bool, but {INTEGERS}"),
    (
        {"labels": np.ma.array(LABELS)},
        TypeError,
        "labels is a masked array, but cnnkit knows no masks: write labels.filled(value)",
    ),
    ({"logits": ones(5)}, ValueError, "logits have shape (5,), but cross_entropy needs (N, K) or (N, K, *spatial)"),
    (
        {"logits": ones(0, 5), "labels": LABELS[:0]},
        ValueError,
        "labels have shape (0,), but the mean of no losses does not exist: use reduction='sum'",
    ),
    ({"label_smoothing": 1.1}, ValueError, "label_smoothing is 1.1, but must be from 0 to 1"),
    ({"label_smoothing": -0.1}, ValueError, "label_smoothing is -0.1, but must be from 0 to 1"),
    ({"label_smoothing": float("nan")}, ValueError, "label_smoothing is nan, but must be from 0 to 1"),
    ({"reduction": "avg"}, ValueError, "reduction is 'avg', but must be one of 'mean', 'sum', 'none'"),
    ({"reduction": None}, ValueError, "reduction is None, but must be one of 'mean', 'sum', 'none'"),
    ({"label_smoothing": "a"}, TypeError, "label_smoothing is 'a', but a number is needed"),
    ({"label_smoothing": None}, TypeError, "label_smoothing is None, but a number is needed"),
    ({"label_smoothing": True}, TypeError, "label_smoothing is True, but a number is needed"),
    ({"logits": ones(4, 0)}, ValueError, "logits have shape (4, 0), but cross_entropy needs at least 1 class"),
    *not_arrays("labels", "int64"),
    *not_arrays("logits"),
    *not_floats("logits", ones(4, 5)),
]

TRAINING = {"training": True, "x": ones(4, 3, 5)}
SHARED = ones(3)


def channel_mistakes(shape, *names):
    """Arrays of one number a channel for x of `shape`, of which 3 are needed."""
    mistakes = []
    for name in names:
        mistakes += [
            ({name: ones(4)}, ValueError, f"{name} has shape (4,), but x of shape {shape} needs (3,)"),
            ({name: ones(3, 1)}, ValueError, f"{name} has shape (3, 1), but x of shape {shape} needs (3,)"),
            ({name: ones(3, dtype="float64")}, TypeError, f"{name} is float64, but x is float32: one dtype a call"),
            *not_arrays(name)[1:],
        ]
    return mistakes


EPSILON = [
    ({"eps": "small"}, TypeError, "eps is 'small', but a number is needed"),
    ({"eps": None}, TypeError, "eps is None, but a number is needed"),
    ({"eps": True}, TypeError, "eps is True, but a number is needed"),
]
POSITIVE = [
    ({"eps": 0}, ValueError, "eps is 0, but must be above 0 and finite"),
    ({"eps": -1e-5}, ValueError, "eps is -1e-05, but must be above 0 and finite"),
    ({"eps": float("inf")}, ValueError, "eps is inf, but must be above 0 and finite"),
    *EPSILON,
]
NORM_NEEDS = [
    ({"needs": ("weight",)}, ValueError, "needs is ('weight',), but must be a tuple of some of 'x', 'gamma', 'beta'"),
    ({"needs": "x"}, ValueError, "needs is 'x', but must be a tuple of some of 'x', 'gamma', 'beta'"),
    ({"needs": None}, TypeError, "needs is None, but must be a tuple of some of 'x', 'gamma', 'beta'"),
]
BATCH_NORM = [
    ({"x": ones(3)}, ValueError, "x has shape (3,), but batch_norm needs (N, C) or (N, C, *spatial)"),
    ({"training": 1}, TypeError, "training is 1, but True or False is needed"),
    ({"running_mean": None}, TypeError, "running_mean is None, but an array is needed when training is False"),
    ({"running_var": None}, TypeError, "running_var is None, but an array is needed when training is False"),
    ({"eps": -1e-5}, ValueError, "eps is -1e-05, but must be at least 0 and finite"),
    ({"eps": float("nan")}, ValueError, "eps is nan, but must be at least 0 and finite"),
    *EPSILON,
    ({"training": True, "eps": 0.0}, ValueError, "eps is 0.0, but must be above 0 and finite"),
]
GROUPS = [
    ({"num_groups": 4}, ValueError, "x of shape (2, 6, 5) has 6 channels, which num_groups=4 does not divide"),
    ({"num_groups": 0}, ValueError, "num_groups is 0, but must be at least 1"),
    ({"num_groups": 2.0}, TypeError, "num_groups is 2.0, but an int is needed"),
    ({"gamma": ones(3)}, ValueError, "gamma has shape (3,), but x of shape (2, 6, 5) needs (6,)"),
    *POSITIVE,
]

MISTAKES = {
    "batch_norm": [
        *BATCH_NORM,
        *channel_mistakes((4, 3, 5), *CHANNELS),
        ({"momentum": 1.5}, ValueError, "momentum is 1.5, but must be from 0 to 1"),
        ({"momentum": float("nan")}, ValueError, "momentum is nan, but must be from 0 to 1"),
        ({"momentum": None}, TypeError, "momentum is None, but a number is needed"),
        (
            {"training": True, "x": ones(1, 3, 1)},
            ValueError,
            "x of shape (1, 3, 1) has 1 values per channel, but batch_norm needs at least 2 when training",
        ),
        (
            {"training": True, "x": ones(0, 3, 5)},
            ValueError,
            "x of shape (0, 3, 5) has 0 values per channel, but batch_norm needs at least 2 when training",
        ),
        (
            {**TRAINING, "running_mean": read_only(3), "running_var": ones(3)},
            ValueError,
            "running_mean is read-only, but is updated in training",
        ),
        (
            {**TRAINING, "running_mean": ones(3), "running_var": read_only(3)},
            ValueError,
            "running_var is read-only, but is updated in training",
        ),
        (
            {**TRAINING, "running_mean": SHARED, "running_var": SHARED},
            ValueError,
            "running_var shares memory with running_mean, but is updated in training: give another array",
        ),
        (
            {**TRAINING, "running_mean": SHARED, "gamma": SHARED, "running_var": ones(3)},
            ValueError,
            "running_mean shares memory with gamma, but is updated in training: give another array",
        ),
        *not_arrays("x"),
        *not_floats("x", ones(4, 3, 5)),
    ],
    "batch_norm_backward": [
        *BATCH_NORM,
        *channel_mistakes((4, 3, 5), "gamma", "running_mean", "running_var"),
        ({"grad_output": ones(4, 3)}, ValueError, "grad_output has shape (4, 3), but x needs (4, 3, 5)"),
        *NORM_NEEDS,
        *not_arrays("grad_output"),
    ],
    "layer_norm": [
        (
            {"normalized_shape": (5, 3)},
            ValueError,
            "x has shape (4, 3, 5), but normalized_shape (5, 3) must be its last axes",
        ),
        (
            {"normalized_shape": (1, 4, 3, 5)},
            ValueError,
            "x has shape (4, 3, 5), but normalized_shape (1, 4, 3, 5) must be its last axes",
        ),
        ({"normalized_shape": ()}, ValueError, "normalized_shape is (), but layer_norm needs at least 1 axis"),
        ({"normalized_shape": 5.0}, TypeError, "normalized_shape is 5.0, but an int is needed"),
        ({"gamma": ones(5)}, ValueError, "gamma has shape (5,), but x of shape (4, 3, 5) needs (3, 5)"),
        ({"beta": ones(4, 3, 5)}, ValueError, "beta has shape (4, 3, 5), but x of shape (4, 3, 5) needs (3, 5)"),
        *POSITIVE,
        *not_arrays("x"),
        *not_floats("x", ones(4, 3, 5)),
    ],
    "layer_norm_backward": [
        ({"grad_output": ones(5)}, ValueError, "grad_output has shape (5,), but x needs (4, 5)"),
        ({"normalized_shape": 4}, ValueError, "x has shape (4, 5), but normalized_shape (4,) must be its last axes"),
        ({"gamma": ones(4)}, ValueError, "gamma has shape (4,), but x of shape (4, 5) needs (5,)"),
        *POSITIVE,
        *NORM_NEEDS,
    ],
    "group_norm": [
        ({"x": ones(6)}, ValueError, "x has shape (6,), but group_norm needs (N, C) or (N, C, *spatial)"),
        *GROUPS,
        ({"beta": ones(6, 1)}, ValueError, "beta has shape (6, 1), but x of shape (2, 6, 5) needs (6,)"),
        *not_arrays("x"),
        *not_floats("x", ones(2, 6, 5)),
    ],
    "group_norm_backward": [
        *GROUPS,
        ({"grad_output": ones(2, 6)}, ValueError, "grad_output has shape (2, 6), but x needs (2, 6, 5)"),
        *NORM_NEEDS,
    ],
    "conv1d": [
        ({"x": ones(2, 4, 9, 9)}, ValueError, "x has shape (2, 4, 9, 9), but conv1d needs (N, C, L) or (C, L)"),
        (
            {"weight": ones(6, 4)},
            ValueError,
            "weight has shape (6, 4), but conv1d needs (C_out, C_in // groups, kL), none of them 0",
        ),
        ({"stride": (1, 1)}, ValueError, "stride is (1, 1), but needs an int or 1 int"),
        ({"padding": (1, 1)}, ValueError, "padding is (1, 1), but needs an int, 1 int or 1 (before, after) pair"),
        (
            {"dilation": 5},
            ValueError,
            "a window of 3 with dilation 5 spans 11 along L, but x has 9 there, 9 with padding",
        ),
    ],
    "conv2d": [
        *CONV,
        *NOT_GIVEN_BACK,
        *outs((2, 8, 6, 7), (2, 8, 7, 6)),
        *not_arrays("x"),
        *not_arrays("weight"),
        *not_floats("x", ones(2, 6, 8, 9)),
        *not_floats("weight", ones(8, 3, 3, 3)),
        (
            {"weight": ones(8, 3, 3, 3, dtype="float64")},
            TypeError,
            "weight is float64, but x is float32: one dtype a call",
        ),
    ],
    "conv3d": [
        ({"x": ones(2, 9)}, ValueError, "x has shape (2, 9), but conv3d needs (N, C, D, H, W) or (C, D, H, W)"),
        (
            {"weight": ones(3, 2, 3, 3)},
            ValueError,
            "weight has shape (3, 2, 3, 3), but conv3d needs (C_out, C_in // groups, kD, kH, kW), none of them 0",
        ),
        ({"stride": (1, 1)}, ValueError, "stride is (1, 1), but needs an int or 3 ints"),
        (
            {"dilation": 2},
            ValueError,
            "a window of 3 with dilation 2 spans 5 along D, but x has 4 there, 4 with padding",
        ),
    ],
    "conv2d_backward": [
        *CONV,
        *NOT_NEEDED,
        (
            {"stride": 1},
            ValueError,
            "grad_output has shape (2, 8, 3, 4), but conv2d of x (2, 6, 8, 9), weight (8, 3, 3, 3) needs (2, 8, 6, 7)",
        ),
        (
            {"grad_output": ones(2, 6, 3, 4)},
            ValueError,
            "grad_output has shape (2, 6, 3, 4), but conv2d of x (2, 6, 8, 9), weight (8, 3, 3, 3) needs (2, 8, 3, 4)",
        ),
        (
            {"grad_output": ones(8, 3, 4)},
            ValueError,
            "grad_output has shape (8, 3, 4), but conv2d of x (2, 6, 8, 9), weight (8, 3, 3, 3) needs (2, 8, 3, 4)",
        ),
        (
            {"grad_output": ones(2, 8, 3, 4, dtype="float64")},
            TypeError,
            "x is float32, but grad_output is float64: one dtype a call",
        ),
        *not_arrays("grad_output"),
        *not_arrays("x"),
        *not_arrays("weight"),
        *not_floats("grad_output", ones(2, 8, 3, 4)),
    ],
    "conv1d_backward": [
        (
            {"grad_output": ones(2, 6, 9)},
            ValueError,
            "grad_output has shape (2, 6, 9), but conv1d of x (2, 4, 9), weight (6, 4, 3) needs (2, 6, 7)",
        )
    ],
    "conv3d_backward": [
        (
            {"grad_output": ones(1, 2, 2, 3, 4)},
            ValueError,
            "grad_output has shape (1, 2, 2, 3, 4), but conv3d of x (1, 2, 4, 5, 6), weight (3, 2, 3, 3, 3) "
            "needs (1, 3, 2, 3, 4)",
        )
    ],
    "conv_transpose1d": [
        ({"x": ones(9)}, ValueError, "x has shape (9,), but conv_transpose1d needs (N, C, L) or (C, L)"),
        ({"output_padding": (0, 0)}, ValueError, "output_padding is (0, 0), but needs an int or 1 int"),
        (
            {"padding": 4},
            ValueError,
            "padding takes 8 along L, but x is spread to 7 there, and the result needs at least 1",
        ),
    ],
    "conv_transpose2d": [
        *CONV_TRANSPOSE,
        (
            {"bias": ones(4)},
            ValueError,
            "bias has shape (4,), but weight of shape (6, 4, 3, 3) with groups=2 needs (8,)",
        ),
        ({"bias": ones(8, dtype="float64")}, TypeError, "bias is float64, but x is float32: one dtype a call"),
        (
            {"weight": ones(6, 4, 3, 3, dtype="float64")},
            TypeError,
            "weight is float64, but x is float32: one dtype a call",
        ),
        *not_arrays("bias")[1:],
        *not_floats("x", ones(2, 6, 3, 4)),
    ],
    "conv_transpose3d": [
        ({"stride": (2, 2)}, ValueError, "stride is (2, 2), but needs an int or 3 ints"),
        (
            {"output_padding": 1},
            ValueError,
            "output_padding is 1 along D, but must be smaller than the stride, 1, or the dilation, 1",
        ),
    ],
    "conv_transpose2d_backward": [
        *CONV_TRANSPOSE,
        (
            {"grad_output": ones(2, 8, 8, 9)},
            ValueError,
            "grad_output has shape (2, 8, 8, 9), but conv_transpose2d of x (2, 6, 3, 4), weight (6, 4, 3, 3) "
            "needs (2, 8, 7, 9)",
        ),
        (
            {"output_padding": 1},
            ValueError,
            "grad_output has shape (2, 8, 7, 9), but conv_transpose2d of x (2, 6, 3, 4), weight (6, 4, 3, 3) "
            "needs (2, 8, 8, 10)",
        ),
        (
            {"x": ones(2, 6, 3, 4, dtype="float64")},
            TypeError,
            "x is float64, but grad_output is float32: one dtype a call",
        ),
        *NOT_NEEDED,
        *not_arrays("grad_output"),
        *not_floats("grad_output", ones(2, 8, 7, 9)),
    ],
    "max_pool1d": [
        ({"x": ones(9)}, ValueError, "x has shape (9,), but max_pool1d needs (N, C, L) or (C, L)"),
        ({"kernel_size": (2, 2)}, ValueError, "kernel_size is (2, 2), but needs an int or 1 int"),
    ],
    "max_pool2d": [
        *POOL,
        *outs((2, 3, 4, 4), (2, 3, 4, 5)),
        ({"return_indices": "yes"}, TypeError, "return_indices is 'yes', but True or False is needed"),
        ({"dilation": 0}, ValueError, "dilation is 0, but must be at least 1"),
        ({"dilation": 2.0}, TypeError, "dilation is 2.0, but an int is needed"),
        (
            {"dilation": 8},
            ValueError,
            "a window of 2 with dilation 8 spans 9 along H, but x has 8 there, 8 with padding",
        ),
        (
            {"x": ones(1, 1, 1, 9), "kernel_size": (2, 1), "dilation": 2, "padding": (1, 0)},
            ValueError,
            "window 0 along H meets nothing of x, which has 1 there, only padding",
        ),
        ({"x": ones(8, 9)}, ValueError, "x has shape (8, 9), but max_pool2d needs (N, C, H, W) or (C, H, W)"),
        ({"x": ones(*SHAPE, dtype=bool)}, TypeError, f"x is bool, but float16, bfloat16, float32, float64, {INTEGERS}"),
        *not_arrays("x"),
    ],
    "max_pool3d": [
        (
            {"x": ones(4, 4, 4)},
            ValueError,
            "x has shape (4, 4, 4), but max_pool3d needs (N, C, D, H, W) or (C, D, H, W)",
        ),
        ({"padding": (1, 1)}, ValueError, "padding is (1, 1), but needs an int, 3 ints or 3 (before, after) pairs"),
    ],
    "max_pool2d_backward": [
        *INPUT_SHAPES,
        (
            {"input_shape": (2, 3, 0, 9)},
            ValueError,
            "indices point into planes of at least 1 element, but input_shape (2, 3, 0, 9) has none",
        ),
        *not_arrays("indices", "int64"),
        (
            {"indices": INDICES[:, :, 1:]},
            ValueError,
            "indices has shape (2, 3, 3, 4), but grad_output needs (2, 3, 4, 4)",
        ),
        (
            {"indices": INDICES + 72},
            ValueError,
            "indices reach from 72 to 72, but input_shape (2, 3, 8, 9) needs 0 to 71",
        ),
        (
            {"indices": INDICES - 1},
            ValueError,
            "indices reach from -1 to -1, but input_shape (2, 3, 8, 9) needs 0 to 71",
        ),
        ({"indices": INDICES.astype("int32")}, TypeError, "indices is int32, but int64 is needed"),
        ({"indices": INDICES * 1.0}, TypeError, "indices is float64, but int64 is needed"),
        *not_arrays("grad_output"),
        *not_floats("grad_output", ones(2, 3, 4, 4)),
    ],
    "adaptive_max_pool2d": [
        *OUTPUT_SIZES,
        ({"x": ones(8, 9)}, ValueError, "x has shape (8, 9), but adaptive_max_pool2d needs (N, C, H, W) or (C, H, W)"),
        (
            {"x": ones(2, 3, 0, 9)},
            ValueError,
            "x has shape (2, 3, 0, 9), but adaptive_max_pool2d needs at least 1 element along every spatial axis",
        ),
        ({"return_indices": 1}, TypeError, "return_indices is 1, but True or False is needed"),
        ({"x": ones(*SHAPE, dtype=bool)}, TypeError, f"x is bool, but float16, bfloat16, float32, float64, {INTEGERS}"),
        *not_arrays("x"),
    ],
    "adaptive_avg_pool1d": [
        ({"output_size": (2, 3)}, ValueError, "output_size is (2, 3), but needs an int or None, or 1 of them"),
        ({"x": ones(9)}, ValueError, "x has shape (9,), but adaptive_avg_pool1d needs (N, C, L) or (C, L)"),
    ],
    "adaptive_avg_pool2d": [*OUTPUT_SIZES, *not_arrays("x"), *not_floats("x", ones(*SHAPE))],
    "adaptive_max_pool2d_backward": [
        *INPUT_SHAPES,
        *places("input_shape (2, 3, 8, 9)", 71),
        (
            {"indices": INDICES[:, :, 1:]},
            ValueError,
            "indices has shape (2, 3, 3, 4), but grad_output needs (2, 3, 4, 4)",
        ),
        *not_arrays("grad_output"),
    ],
    "adaptive_avg_pool2d_backward": [
        *INPUT_SHAPES,
        (
            {"grad_output": ones(2, 3, 0, 4)},
            ValueError,
            "output_size is 0, but must be at least 1",
        ),
        (
            {"input_shape": (2, 3, 0, 9)},
            ValueError,
            "x has shape (2, 3, 0, 9), but adaptive_avg_pool2d needs at least 1 element along every spatial axis",
        ),
        *not_arrays("grad_output"),
        *not_floats("grad_output", ones(2, 3, 4, 4)),
    ],
    "max_unpool2d": [
        *places("output_size (8, 8)", 63),
        ({"indices": INDICES[1:]}, ValueError, "indices has shape (1, 3, 4, 4), but x needs (2, 3, 4, 4)"),
        ({"x": ones(4, 4)}, ValueError, "x has shape (4, 4), but max_unpool2d needs (N, C, H, W) or (C, H, W)"),
        (
            {"x": ones(2, 3, 4, 4, dtype=bool)},
            TypeError,
            f"x is bool, but float16, bfloat16, float32, float64, {INTEGERS}",
        ),
        ({"kernel_size": 0}, ValueError, "kernel_size is 0, but must be at least 1"),
        ({"stride": 1.5}, TypeError, "stride is 1.5, but an int is needed"),
        ({"padding": "full"}, ValueError, f"padding is 'full', but {PADDINGS}"),
        (
            {"output_size": (8, 10)},
            ValueError,
            "output_size is 10 along W, but x has 4 there, which such windows make of 7 to 9",
        ),
        (
            {"output_size": (6, 8)},
            ValueError,
            "output_size is 6 along H, but x has 4 there, which such windows make of 7 to 9",
        ),
        (
            {"output_size": (8,)},
            ValueError,
            "output_size is (8,), but needs 2 ints or the shape of the result",
        ),
        (
            {"output_size": (2, 4, 8, 8)},
            ValueError,
            "output_size is (2, 4, 8, 8), but needs 2 ints or the shape of the result",
        ),
        ({"output_size": 8}, ValueError, "output_size is 8, but needs 2 ints or the shape of the result"),
        ({"output_size": (8, 8.0)}, TypeError, "output_size is 8.0, but an int is needed"),
        *not_arrays("x"),
    ],
    "max_unpool2d_backward": [
        *places("grad_output of shape (2, 3, 8, 9)", 71),
        (
            {"grad_output": ones(2, 3, 0, 9)},
            ValueError,
            "indices point into planes of at least 1 element, but grad_output of shape (2, 3, 0, 9) has none",
        ),
        (
            {"indices": INDICES[0]},
            ValueError,
            "indices has shape (3, 4, 4), but grad_output of shape (2, 3, 8, 9) needs (2, 3, 4, 4)",
        ),
        (
            {"grad_output": ones(8, 9)},
            ValueError,
            "grad_output has shape (8, 9), but max_unpool2d_backward needs (N, C, H, W) or (C, H, W)",
        ),
        *not_arrays("grad_output"),
        *not_floats("grad_output", ones(*SHAPE)),
    ],
    "lp_pool2d": [*POOL, *NORM_TYPES, *not_arrays("x"), *not_floats("x", ones(*SHAPE))],
    "lp_pool2d_backward": [
        *POOL,
        *NORM_TYPES,
        (
            {"stride": 3},
            ValueError,
            "grad_output has shape (2, 3, 4, 4), but lp_pool2d of x (2, 3, 8, 9) needs (2, 3, 3, 3)",
        ),
        (
            {"x": ones(*SHAPE, dtype="float64")},
            TypeError,
            "x is float64, but grad_output is float32: one dtype a call",
        ),
        *not_arrays("grad_output"),
        *not_arrays("x"),
    ],
    "avg_pool1d": [({"x": ones(9)}, ValueError, "x has shape (9,), but avg_pool1d needs (N, C, L) or (C, L)")],
    "avg_pool2d": [
        *POOL,
        *DIVISORS,
        *outs((2, 3, 4, 4), (2, 3, 4, 5)),
        ({"x": ones(8, 9)}, ValueError, "x has shape (8, 9), but avg_pool2d needs (N, C, H, W) or (C, H, W)"),
        *not_arrays("x"),
        *not_floats("x", ones(*SHAPE)),
    ],
    "avg_pool3d": [({"kernel_size": (2, 2)}, ValueError, "kernel_size is (2, 2), but needs an int or 3 ints")],
    "avg_pool2d_backward": [
        *POOL,
        *DIVISORS,
        *INPUT_SHAPES,
        (
            {"stride": 3},
            ValueError,
            "grad_output has shape (2, 3, 4, 4), but avg_pool2d of an input of shape (2, 3, 8, 9) needs (2, 3, 3, 3)",
        ),
        (
            {"grad_output": ones(2, 3, 8, 9)},
            ValueError,
            "grad_output has shape (2, 3, 8, 9), but avg_pool2d of an input of shape (2, 3, 8, 9) needs (2, 3, 4, 4)",
        ),
        *not_arrays("grad_output"),
        *not_floats("grad_output", ones(2, 3, 4, 4)),
    ],
    "dense": [
        ({"weight": ones(6, 5)}, ValueError, "x of shape (4, 6) has 6 features, but weight of shape (6, 5) needs 5"),
        (
            {"x": ones(2, 3, 4, 4)},
            ValueError,
            "x of shape (2, 3, 4, 4) has 4 features, but weight of shape (5, 6) needs 6",
        ),
        ({"x": ones()}, ValueError, "x of shape () has no features, but weight of shape (5, 6) needs 6"),
        ({"weight": ones(6)}, ValueError, "weight has shape (6,), but dense needs (out_features, in_features)"),
        ({"bias": ones(6)}, ValueError, "bias has shape (6,), but weight of shape (5, 6) needs (5,)"),
        ({"bias": ones(1)}, ValueError, "bias has shape (1,), but weight of shape (5, 6) needs (5,)"),
        ({"bias": ones(4, 5)}, ValueError, "bias has shape (4, 5), but weight of shape (5, 6) needs (5,)"),
        ({"weight": ones(5, 6, dtype="float64")}, TypeError, "weight is float64, but x is float32: one dtype a call"),
        ({"bias": ones(5, dtype="float64")}, TypeError, "bias is float64, but x is float32: one dtype a call"),
        ({"activation": "tan"}, ValueError, f"activation is 'tan', but {ACTIVATIONS}"),
        *outs((4, 5), (5, 4)),
        *not_arrays("x"),
        *not_arrays("weight"),
        *not_arrays("bias")[1:],
        *not_floats("x", ones(4, 6)),
    ],
    "dense_backward": [
        (
            {"grad_output": ones(4, 6)},
            ValueError,
            "grad_output has shape (4, 6), but dense of x (4, 6), weight (5, 6) needs (4, 5)",
        ),
        (
            {"grad_output": ones(3, 5)},
            ValueError,
            "grad_output has shape (3, 5), but dense of x (4, 6), weight (5, 6) needs (4, 5)",
        ),
        ({"weight": ones(6, 5)}, ValueError, "x of shape (4, 6) has 6 features, but weight of shape (6, 5) needs 5"),
        (
            {"grad_output": ones(4, 5, dtype="float64")},
            TypeError,
            "x is float32, but grad_output is float64: one dtype a call",
        ),
        *NOT_NEEDED,
        *not_arrays("grad_output"),
        *not_floats("grad_output", ones(4, 5)),
    ],
    "relu": X,
    "softmax": X + AXES,
    "log_softmax": X + AXES,
    "relu_backward": ALIKE,
    "softmax_backward": ALIKE + AXES,
    "log_softmax_backward": ALIKE + AXES,
    "cross_entropy": LOSS,
    "cross_entropy_backward": [
        *LOSS,
        ({"grad_output": None}, TypeError, "grad_output is None, but a number or an array is needed"),
        ({"grad_output": "a"}, TypeError, "grad_output is 'a', but a number or an array is needed"),
        ({"grad_output": 1j}, TypeError, "grad_output is 1j, but a number or an array is needed"),
        (
            {"grad_output": ones(4, dtype="float64"), "reduction": "none"},
            TypeError,
            "grad_output is float64, but logits is float32: one dtype a call",
        ),
        ({"grad_output": ones(4)}, ValueError, "grad_output has shape (4,), but reduction='mean' needs ()"),
        (
            {"grad_output": 1.0, "reduction": "none"},
            ValueError,
            "grad_output has shape (), but reduction='none' needs (4,)",
        ),
        (
            {"grad_output": ones(4, 5), "reduction": "none"},
            ValueError,
            "grad_output has shape (4, 5), but reduction='none' needs (4,)",
        ),
    ],
    **{name: X + PARAMETER.get(name, []) for name in POINTWISE},
    **{f"{name}_backward": ALIKE + PARAMETER.get(name, []) for name in POINTWISE},
    "dropout": [
        *X,
        *RATES,
        ({"rng": None}, TypeError, "rng is None, but a numpy.random.Generator is needed"),
        ({"rng": random}, TypeError, f"rng is {random!r}, but a numpy.random.Generator is needed"),
    ],
    "dropout_backward": [
        *RATES,
        *not_arrays("grad_output"),
        *not_floats("grad_output", ones(2, 3)),
        ({"kept": ones(2, 3)}, TypeError, "kept is float32, but bool is needed"),
        (
            {"kept": [True]},
            TypeError,
            "kept is a list, but an array is needed: write numpy.asarray(kept, dtype='bool')",
        ),
        ({"kept": ones(3) > 0}, ValueError, "kept has shape (3,), but grad_output needs (2, 3)"),
    ],
    "mse_loss": SQUARES,
    "mse_loss_backward": [
        *SQUARES,
        ({"grad_output": None}, TypeError, "grad_output is None, but a number or an array is needed"),
        (
            {"grad_output": ones(2, 3, dtype="float64"), "reduction": "none"},
            TypeError,
            "grad_output is float64, but y is float32: one dtype a call",
        ),
        ({"grad_output": ones(2, 3)}, ValueError, "grad_output has shape (2, 3), but reduction='mean' needs ()"),
        (
            {"grad_output": 1.0, "reduction": "none"},
            ValueError,
            "grad_output has shape (), but reduction='none' needs (2, 3)",
        ),
    ],
    "set_num_threads": [
        ({"n": 0}, ValueError, "n is 0, but must be at least 1"),
        ({"n": -1}, ValueError, "n is -1, but must be at least 1"),
        ({"n": 2.0}, TypeError, "n is 2.0, but an int is needed"),
        ({"n": "2"}, TypeError, "n is '2', but an int is needed"),
        ({"n": None}, TypeError, "n is None, but an int is needed"),
        ({"n": True}, TypeError, "n is True, but an int is needed"),
    ],
}


def rows(table):
    """The table as parameters of a test, each under its function and its first words."""
    return [
        pytest.param(name, *row, id=f"{name}: {row[2][:50]}") for name, mistakes in table.items() for row in mistakes
    ]


@pytest.mark.parametrize("name", GOOD)
def test_the_call_works_without_the_mistake(name, threads):
    getattr(cnnkit, name)(**GOOD[name])


RESULTS = {"conv2d": (2, 8, 6, 7), "dense": (4, 5), "max_pool2d": (2, 3, 4, 4), "avg_pool2d": (2, 3, 4, 4)}


def blame(name, changes, error, pattern):
    """Make the mistake; the error must match, and ``out`` must be as before."""
    arguments = GOOD[name] | changes
    out = None
    if name in RESULTS and "out" not in changes:
        out = arguments["out"] = np.full(RESULTS[name], 7, "f4")
    with pytest.raises(error) as caught:
        getattr(cnnkit, name)(**arguments)
    sentence = str(caught.value)
    assert re.match(pattern, sentence), sentence
    assert "\n" not in sentence
    assert not sentence.endswith(".")
    assert out is None or (out == 7).all(), "out was written before the arguments were checked"


@pytest.mark.parametrize(("name", "changes", "error", "sentence"), rows(MISTAKES))
def test_a_mistake_is_one_sentence_with_the_numbers(name, changes, error, sentence, threads):
    blame(name, changes, error, f"{re.escape(sentence)}$")


def test_needs_may_not_be_an_iterator_that_ends():
    blame("conv2d_backward", {"needs": iter(("x",))}, TypeError, f"needs is <tuple_iterator .*>, but {NEEDS}$")


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_out_of_pooling_may_not_be_its_input(name):
    x = ones(1, 3, 5, 5)
    for out in (x, x.reshape(1, 3, 5, 5)[..., ::-1]):
        with pytest.raises(ValueError, match=r"^out shares memory with an input, but inputs are never "):
            getattr(cnnkit, name)(x, 1, out=out)
    assert (x == 1).all()


@pytest.mark.parametrize("name", ["conv2d", "dense"])
def test_out_may_not_be_an_input(name):
    arrays = {
        "conv2d": {"x": ones(1, 3, 5, 5), "weight": ones(3, 3, 1, 1), "bias": ones(3)},
        "dense": {"x": ones(5, 5), "weight": ones(5, 5), "bias": ones(5)},
    }[name]
    with pytest.raises(ValueError, match=r"^out shares memory with an input, but inputs are never "):
        getattr(cnnkit, name)(**arrays, out=arrays["x"])
    memory = ones(200)
    out = memory[: arrays["x"].size].reshape(arrays["x"].shape)
    arrays["bias"] = memory[3 : 3 + len(arrays["bias"])]
    with pytest.raises(ValueError, match=r"^out shares memory with an input, but inputs are never "):
        getattr(cnnkit, name)(**arrays, out=out)
    assert (memory == 1).all()


BACKENDS = "but the backends are 'numba', 'numpy', 'cuda', 'cupy'"


@pytest.mark.parametrize("name", ["nunba", "NUMPY", "", None, 1, ["numpy"]])
def test_an_unknown_backend_is_named(name):
    sentence = f"use_backend is {name!r}, {BACKENDS}"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"), cnnkit.use_backend(name):
        pass


@pytest.mark.parametrize("name", ["cuda", "cupy"])
def test_a_backend_that_cannot_run_says_what_to_install(name):
    available, why_not = cnnkit.backends()[name]
    if available:
        pytest.skip(f"{name} runs here")
    sentence = f"backend {name!r} is not available: {why_not}"
    with pytest.raises(ImportError, match=f"^{re.escape(sentence)}$"), cnnkit.use_backend(name):
        pass
