"""Awkward shapes: each row is a layer that has broken, or could break, somebody's kernel."""

from typing import Any, NamedTuple

import naive
import numpy as np
import pytest
from hypothesis import strategies as st


class Conv(NamedTuple):
    """One convolution; the number of spatial axes is the kernel's."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    @property
    def count(self):
        """The number of spatial axes."""
        return len(self.weight) - 2

    @property
    def params(self):
        """The arguments after the bias."""
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def solved(self):
        """``(stride, pads, dilation, groups)`` for `naive`."""
        size, kernel = self.x[-self.count :], self.weight[2:]
        pads = naive.pairs(self.padding, kernel, self.stride, self.dilation, size)
        return self.stride, pads, self.dilation, self.groups

    @property
    def terms(self):
        """Products in one output."""
        return int(np.prod(self.weight[1:]))

    @property
    def gradient_terms(self):
        """Products in the gradient of one input, at most."""
        return int(np.prod(self.weight[2:])) * self.weight[0] // self.groups


CONV = {
    # one dimension
    "1d": Conv((2, 3, 11), (4, 3, 3)),
    "1d one tap": Conv((2, 3, 7), (5, 3, 1)),
    "1d stride over kernel": Conv((1, 2, 17), (3, 2, 2), stride=5),
    "1d long kernel": Conv((1, 2, 70), (3, 2, 33), padding=16),
    "1d causal": Conv((2, 4, 13), (4, 4, 3), padding=((4, 0),), dilation=2),
    "1d one pixel": Conv((2, 3, 1), (4, 3, 1)),
    "1d depthwise": Conv((2, 5, 19), (5, 1, 3), padding=1, groups=5),
    # two dimensions: sizes
    "1x1": Conv((2, 5, 4, 3), (7, 5, 1, 1)),
    "1x1 stride 2": Conv((2, 5, 7, 8), (7, 5, 1, 1), stride=2),
    "1x1 padded": Conv((1, 2, 3, 3), (3, 2, 1, 1), padding=1),
    "3x3": Conv((2, 3, 8, 9), (4, 3, 3, 3), padding=1),
    "odd sizes": Conv((3, 1, 13, 11), (5, 1, 3, 3)),
    "non-square": Conv((2, 3, 9, 6), (4, 3, 5, 2), padding=(2, 1)),
    "row kernel": Conv((1, 2, 5, 12), (3, 2, 1, 7), padding=(0, 3)),
    "column kernel": Conv((1, 2, 12, 5), (3, 2, 7, 1), stride=(2, 1)),
    "even kernel": Conv((1, 2, 9, 9), (3, 2, 4, 4), stride=2, padding=1),
    "kernel is the image": Conv((2, 3, 5, 4), (6, 3, 5, 4)),
    "kernel is the padded image": Conv((1, 2, 3, 2), (3, 2, 5, 6), padding=(1, 2)),
    "flat image": Conv((1, 2, 1, 40), (3, 2, 3, 3), padding=1),
    "no image": Conv((0, 3, 6, 6), (4, 3, 3, 3), padding=1),
    "unbatched": Conv((3, 7, 6), (4, 3, 3, 3), padding=1),
    "unbatched 1d": Conv((3, 9), (4, 3, 3), stride=2),
    # channel and pixel counts around the tile sizes
    "17 channels": Conv((1, 17, 7, 5), (19, 17, 3, 3), padding=1),
    "16 channels": Conv((1, 16, 8, 8), (16, 16, 3, 3), padding=1),
    "33 to 50 channels": Conv((1, 33, 6, 7), (50, 33, 3, 3), padding=1),
    "65 to 1 channels": Conv((2, 65, 5, 5), (1, 65, 3, 3)),
    "1 to 49 channels": Conv((2, 1, 9, 9), (49, 1, 3, 3), padding=1),
    "1x1, 100 to 70": Conv((1, 100, 5, 5), (70, 100, 1, 1)),
    "29 wide": Conv((1, 4, 3, 29), (8, 4, 3, 3), padding=1),
    "stem": Conv((1, 3, 23, 21), (20, 3, 7, 7), stride=2, padding=3),
    # stride and dilation
    "stride 2": Conv((2, 3, 9, 10), (4, 3, 3, 3), stride=2, padding=1),
    "stride 3": Conv((2, 3, 11, 10), (4, 3, 3, 3), stride=3, padding=1),
    "stride over kernel": Conv((1, 2, 11, 13), (3, 2, 2, 3), stride=(4, 5), padding=1),
    "stride over image": Conv((2, 2, 5, 5), (3, 2, 3, 3), stride=7),
    "a remainder is left": Conv((1, 2, 10, 12), (3, 2, 3, 3), stride=4),
    "unequal strides": Conv((1, 3, 9, 9), (4, 3, 3, 3), stride=(1, 3), padding=(2, 0)),
    "dilation 2": Conv((2, 3, 9, 10), (4, 3, 3, 3), padding=2, dilation=2),
    "stride 2, dilation 2": Conv((1, 3, 11, 12), (4, 3, 3, 3), stride=2, padding=2, dilation=2),
    "stride 3, dilation 2": Conv((1, 3, 13, 12), (4, 3, 3, 3), stride=3, padding=2, dilation=2),
    "stride 2, dilation 3": Conv((1, 3, 13, 12), (4, 3, 3, 3), stride=2, padding=3, dilation=3),
    "stride 2, dilation 4": Conv((1, 2, 13, 15), (3, 2, 3, 3), stride=2, padding=4, dilation=4),
    "stride 4, dilation 6": Conv((1, 2, 19, 17), (3, 2, 3, 2), stride=4, padding=5, dilation=6),
    "unequal dilations": Conv((1, 2, 9, 14), (3, 2, 3, 3), dilation=(1, 4), stride=(2, 3)),
    "dilation over image": Conv((1, 2, 4, 5), (3, 2, 3, 3), padding=9, dilation=9),
    # padding
    "padding over kernel": Conv((1, 2, 4, 5), (3, 2, 3, 3), padding=5),
    "padding over image": Conv((1, 2, 2, 3), (3, 2, 3, 3), padding=6, stride=3),
    "asymmetric": Conv((2, 3, 7, 8), (4, 3, 3, 3), padding=((0, 2), (3, 1))),
    "asymmetric, stride 2": Conv((1, 2, 8, 9), (3, 2, 3, 3), stride=2, padding=((2, 0), (0, 3))),
    "valid": Conv((1, 2, 6, 7), (3, 2, 3, 2), padding="valid", stride=2),
    "same": Conv((1, 2, 6, 7), (3, 2, 4, 3), padding="same"),
    "same, stride 2": Conv((1, 2, 9, 8), (3, 2, 3, 4), stride=2, padding="same"),
    "same, stride 3, dilation 2": Conv((1, 2, 10, 11), (3, 2, 3, 2), stride=3, padding="same", dilation=2),
    "same, stride over kernel": Conv((1, 2, 9, 8), (3, 2, 1, 2), stride=3, padding="same"),
    "same_lower": Conv((1, 2, 6, 7), (3, 2, 4, 2), padding="same_lower"),
    "same_lower, stride 2": Conv((1, 2, 8, 9), (3, 2, 3, 4), stride=2, padding="same_lower"),
    # groups
    "2 groups": Conv((2, 6, 7, 7), (8, 3, 3, 3), padding=1, groups=2),
    "3 groups, stride 2": Conv((1, 9, 8, 7), (6, 3, 3, 3), stride=2, padding=1, groups=3),
    "2 wide groups": Conv((1, 34, 5, 6), (36, 17, 3, 3), padding=1, groups=2),
    "1x1, 4 groups": Conv((2, 8, 5, 5), (12, 2, 1, 1), groups=4),
    "depthwise": Conv((2, 5, 9, 8), (5, 1, 3, 3), padding=1, groups=5),
    "depthwise, 35 channels": Conv((1, 35, 6, 7), (35, 1, 3, 3), padding=1, groups=35),
    "depthwise, stride 2": Conv((2, 4, 9, 9), (4, 1, 3, 3), stride=2, padding=1, groups=4),
    "depthwise, 5x5, dilation 2": Conv((1, 4, 12, 11), (4, 1, 5, 5), 1, 4, 2, 4),
    "depthwise, multiplier 2": Conv((2, 4, 7, 7), (8, 1, 3, 3), padding=1, groups=4),
    "depthwise, multiplier 3": Conv((1, 3, 8, 7), (9, 1, 3, 3), stride=2, padding=1, groups=3),
    "groups of 2 to 1": Conv((1, 8, 6, 6), (4, 2, 3, 3), padding=1, groups=4),
    # three dimensions
    "3d": Conv((2, 2, 5, 6, 4), (3, 2, 3, 3, 3), padding=1),
    "3d 1x1x1": Conv((1, 3, 3, 4, 2), (5, 3, 1, 1, 1)),
    "3d stride 2": Conv((1, 2, 6, 5, 7), (3, 2, 3, 2, 3), stride=2, padding=(1, 0, 1)),
    "3d mixed": Conv((1, 2, 6, 7, 8), (3, 2, 2, 3, 2), stride=(1, 2, 3), dilation=(2, 1, 3)),
    "3d same": Conv((1, 2, 5, 4, 6), (3, 2, 2, 3, 4), stride=2, padding="same"),
    "3d pairs": Conv((1, 2, 4, 4, 4), (3, 2, 3, 2, 3), padding=((1, 0), (0, 2), (2, 1))),
    "3d depthwise": Conv((1, 3, 5, 5, 5), (3, 1, 3, 3, 3), padding=1, groups=3),
    "3d unbatched": Conv((2, 4, 5, 4), (3, 2, 3, 3, 3), padding=1),
}


class Pool(NamedTuple):
    """One pooling window; ``count`` spatial axes, the last of ``x``."""

    x: tuple[int, ...]
    kernel: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: bool = False
    count: int = 2

    @property
    def solved(self):
        """``(kernel, stride, pads)`` for `naive`."""
        stride = self.kernel if self.stride is None else self.stride
        size = self.x[-self.count :]
        kernel = naive.each_axis(self.kernel, self.count)
        return self.kernel, stride, naive.pairs(self.padding, kernel, stride, self.dilation, size)

    @property
    def terms(self):
        """Elements in one window."""
        return int(np.prod(naive.each_axis(self.kernel, self.count)))


POOL = {
    "1d": Pool((2, 3, 11), 3, count=1),
    "1d overlapping": Pool((2, 3, 12), 4, 1, 2, count=1),
    "1d stride over kernel": Pool((1, 2, 17), 2, 5, count=1),
    "1d ceil": Pool((2, 3, 11), 3, 2, 1, 1, True, count=1),
    "1d ceil drops the last": Pool((1, 2, 6), 2, 3, 1, 1, True, count=1),
    "1d unbatched": Pool((3, 10), 2, count=1),
    "2x2": Pool((2, 3, 8, 6), 2),
    "odd size": Pool((2, 3, 7, 9), 2),
    "3x3 stride 2": Pool((2, 3, 9, 8), 3, 2, 1),
    "3x3 stride 1": Pool((1, 5, 6, 7), 3, 1, 1),
    "non-square": Pool((1, 2, 9, 10), (3, 2), (2, 3), (1, 0)),
    "stride over kernel": Pool((1, 2, 11, 13), 2, (4, 5)),
    "1x1": Pool((1, 2, 4, 5), 1),
    "1x1 stride 3": Pool((1, 2, 7, 8), 1, 3),
    "whole image": Pool((2, 3, 5, 4), (5, 4)),
    "whole padded image": Pool((1, 2, 3, 4), (5, 8), 1, (1, 2)),
    "as large as the image, beside it": Pool((1, 2, 3, 4), (3, 4), 4, 1),
    "one pixel": Pool((2, 3, 1, 1), 1),
    "ceil": Pool((2, 3, 7, 8), 2, 2, 0, 1, True),
    "ceil, padded": Pool((1, 3, 8, 9), 3, 2, 1, 1, True),
    "ceil, stride over kernel": Pool((1, 2, 8, 7), 2, 3, 1, 1, True),
    "ceil, two over the end": Pool((1, 2, 9, 10), 4, 3, 2, 1, True),
    "pairs": Pool((1, 2, 7, 8), 3, 2, ((0, 1), (1, 0))),
    "pairs, ceil": Pool((1, 2, 8, 9), 3, 2, ((1, 0), (0, 1)), 1, True),
    "valid": Pool((1, 2, 7, 8), 3, 2, "valid"),
    "same": Pool((1, 2, 7, 8), 3, 2, "same"),
    "same, even kernel": Pool((1, 2, 7, 6), 2, 1, "same"),
    "same_lower": Pool((1, 2, 7, 8), (2, 3), (1, 2), "same_lower"),
    "no image": Pool((0, 3, 6, 6), 2),
    "unbatched": Pool((3, 7, 6), 2),
    "17 channels": Pool((1, 17, 5, 19), 3, 2, 1),
    "70 wide": Pool((1, 1, 4, 70), 2, 1),
    "3d": Pool((1, 2, 5, 6, 4), 2, count=3),
    "3d mixed": Pool((1, 2, 6, 5, 7), (2, 3, 2), (1, 2, 3), (1, 1, 0), count=3),
    "3d ceil": Pool((1, 2, 5, 6, 4), 3, 2, 1, 1, True, count=3),
    "3d unbatched": Pool((2, 4, 4, 6), 2, count=3),
}

DILATED_POOL = {
    "1d dilation 2": Pool((2, 3, 12), 3, 1, 0, 2, count=1),
    "1d dilation over stride": Pool((1, 2, 17), 3, 2, 1, 4, count=1),
    "dilation 2": Pool((1, 3, 9, 10), 3, 1, 1, 2),
    "dilation 3, stride 2": Pool((1, 3, 11, 12), 2, 2, 1, 3),
    "dilation, ceil": Pool((1, 2, 10, 11), 3, 2, 1, 2, True),
    "unequal dilations": Pool((1, 2, 9, 10), (2, 3), (1, 2), 1, (4, 2)),
    "3d dilation": Pool((1, 2, 6, 7, 6), 2, 1, 1, (1, 2, 3), count=3),
}

MAX_POOL = POOL | DILATED_POOL


def over(table):
    """Parametrise a test over a table of cases, under their names."""
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


def normal(shape, dtype, seed):
    """Reproducible test data."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def in_memory(x, layout):
    """The same numbers, in another order in memory or with gaps between them."""
    if layout == "channels last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -x.ndim + 1, -1)), -1, -x.ndim + 1)
    if layout == "every other":
        return np.repeat(x, 2, axis=-1)[..., ::2]
    if layout == "backward":
        return x[..., ::-1].copy()[..., ::-1]
    return {"C": np.ascontiguousarray, "Fortran": np.asfortranarray}[layout](x)


LAYOUTS = ("C", "channels last", "Fortran", "every other", "backward")
FLOATS = st.sampled_from([np.dtype("float32"), np.dtype("float64")])
