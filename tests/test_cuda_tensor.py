"""The tile for tensor cores in the simulator: halves and tf32, forward and back, in any memory, against the definition.

Arrays hold small integers, which are exact in all of these formats: sums are what the definition says, rounded once.
"""

import importlib
import sys

import naive
import numpy as np
import pytest
import strict_cupy
from cases import CONV, Conv
from test_arrays import FORMS, channels_last, whole
from test_cuda_kernels import Room, call, clean  # noqa: F401

import cnnkit
from cnnkit.rooms.array import activate

ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
KINDS = ("float16", "bfloat16", "float32")
HALF = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
CASES = {
    name: CONV[name]
    for name in (
        *("1d causal", "1x1 stride 2", "non-square", "unbatched", "17 channels", "stride over kernel"),
        *("stride 2, dilation 3", "asymmetric, stride 2", "padding over image", "3d mixed", "no image"),
    )
}
CASES["33 to 50 channels"] = Conv((1, 33, 4, 3), (50, 33, 2, 2))
CASES["2 groups of 16"] = Conv((3, 32, 3, 4), (20, 16, 2, 3), padding=(1, 0), groups=2)


@pytest.fixture
def room(clean):  # noqa: F811
    return Room(clean, small=True)


@pytest.mark.parametrize(("name", "kind"), list(zip(CASES, KINDS * 5, strict=False)))
def test_convolutions(name, kind, room):
    check(CASES[name], kind, room)


def check(case, kind, room, form=np.copy, needs=("x", "weight", "bias")):
    """Forward, fused, and all gradients."""
    x, weight, bias = (form(whole(s, HALF[kind], i)) for i, s in enumerate((case.x, case.weight, case.weight[:1])))
    lifted, wide, added = (np.float32(one) for one in (x if x.ndim == case.count + 2 else x[None], weight, bias))
    expected = naive.conv(lifted, wide, added, *case.solved)
    room.launched.clear()
    with cnnkit.options(tf32=True):
        y = call(f"conv{case.count}d", x, weight, bias, *case.params, activation="leaky_relu")
        assert_rounded(y, np.where(expected > 0, expected, expected * np.float32(0.01)))
        grad = form(whole(y.shape, HALF[kind], 5))
        grads = call(f"conv{case.count}d_backward", grad, x, weight, *case.params, needs=needs)
    out = np.float32(grad if y.ndim == expected.ndim else grad[None])
    for got, want in zip(grads, naive.conv_backward(out, lifted, wide, *case.solved), strict=True):
        assert got is None or assert_rounded(got, want)
    assert not x.size or {name.removesuffix("_slim") for name in room.launched} == {"matrix", "matrix_back", "totals"}


def assert_rounded(got, want):
    """To the last bit."""
    assert got.size == want.size
    if got.size:
        np.testing.assert_array_equal(np.float32(got).ravel(), np.float32(want.ravel().astype(got.dtype)))
    return True


@pytest.mark.parametrize("form", ["negative steps", "every other", "channels-last, backwards"])
def test_any_memory(form, room):
    check(CASES["asymmetric, stride 2"], "float16", room, FORMS[form])


def test_what_lies_channels_last_is_not_copied(room, monkeypatch):
    cupy, copies = sys.modules["cupy"], []
    for name in ("zeros", "empty"):
        make = getattr(cupy, name)
        monkeypatch.setattr(cupy, name, lambda shape, dtype, make=make: copies.append(shape) or make(shape, dtype))
    check(Conv((2, 16, 3, 2), (24, 16, 2, 1)), "bfloat16", room, channels_last)
    assert [shape for shape in copies if len(shape) == 6] == [(16, 1, 2, 1, 1, 24)]  # the weight of the way back


@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
def test_a_tile_of_the_real_size(kind, clean):  # noqa: F811
    """All three of its stages, and more than one tile where rows are few enough."""
    room = Room(clean, small=False)
    check(Conv((1, 104, 3, 2), (66, 104, 1, 1)), kind, room, needs=("weight",))
    assert room.launched[0] == "matrix"
    assert ("matrix_back" in room.launched) == (kind != "float32")


def test_batches_and_splits(room):
    """A workspace for one image: each has its own parts of the weight's gradient, which are added up in order."""
    with cnnkit.options(max_workspace=2048):
        check(Conv((3, 8, 9, 8), (9, 8, 2, 2)), "float16", room)
    assert room.launched.count("matrix_slim") == 3 * 2
    assert room.launched.count("matrix_back_slim") == 3


@pytest.mark.parametrize(("shape", "kind"), list(zip([(5, 7), (3, 2, 40), (0, 8)], KINDS, strict=True)))
def test_dense(shape, kind, room):
    x, weight = whole(shape, HALF[kind], 1), whole((19, shape[-1]), HALF[kind], 2)
    bias, grad = whole((19,), HALF[kind], 3), whole((*shape[:-1], 19), HALF[kind], 4)
    wide = [np.float32(one).reshape(-1, one.shape[-1]) for one in (x, weight, bias, grad)]
    with cnnkit.options(tf32=True):
        assert_rounded(call("dense", x, weight, bias, activation="relu"), (wide[0] @ wide[1].T + wide[2]).clip(0))
        got = call("dense_backward", grad, x, weight)
    for one, want in zip(got, (wide[3] @ wide[1], wide[3].T @ wide[0], wide[3].sum(0)), strict=True):
        assert_rounded(one, want)


@pytest.mark.parametrize("name", ["elu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "relu", "leaky_relu"])
def test_activations(name, room):
    """As the array room has them, also far out."""
    values = np.array([-np.inf, -1e4, -40, -3, -0.5, 0, 0.25, 2, 30, 1e4, np.inf, np.nan], np.float32).reshape(1, -1)
    x, weight = np.zeros((1, 8), np.float16), np.zeros((12, 8), np.float16)
    activation = (name, {"elu": 1.5, "leaky_relu": 0.125}.get(name, 0.0))
    out = np.empty((1, 12), np.float16)
    importlib.import_module("cnnkit.rooms.cuda.dense").dense(
        *map(strict_cupy.wrap, (x, weight, np.float16(values[0]))), activation, strict_cupy.wrap(out)
    )
    want = np.empty_like(values)
    with np.errstate(all="ignore"):
        activate(activation, np.float32(np.float16(values)), want)
        np.testing.assert_allclose(np.float32(out), np.float32(np.float16(want)), rtol=2**-10, atol=1e-7)


def test_tf32_rounds_and_is_asked_for(room):
    """Off by 2**-10 of a product at most, and not by what cutting off bits would be; without it float32 is float32."""
    rng = np.random.default_rng(0)
    x, weight = (rng.uniform(0.5, 1, shape).astype(np.float32) for shape in ((2, 24, 4, 4), (9, 24, 3, 3)))
    wide = naive.conv(x, weight, None, 1, ((0, 0),) * 2, 1, 1)
    strict = call("conv2d", x, weight)
    assert set(room.launched) == {"product"}
    np.testing.assert_allclose(strict, wide, rtol=1e-6)
    with cnnkit.options(tf32=True):
        error = call("conv2d", x, weight) / wide - 1
    assert room.launched[-1] == "matrix_slim"
    assert 1e-6 < abs(error).max() < 2**-13  # the errors of 216 products cancel
    np.testing.assert_array_equal(call("conv2d", x, weight), strict)


def test_few_channels_of_halves_are_summed_in_float32(room):
    case = CONV["depthwise, multiplier 2"]
    x, weight = whole(case.x, np.float16, 1), whole(case.weight, np.float16, 2)
    expected = naive.conv(np.float32(x), np.float32(weight), None, *case.solved)
    assert_rounded(call("conv2d", x, weight, None, *case.params), expected)
    assert room.launched == ["direct"]


def test_parts_are_added_up_in_the_same_order(room):
    rng = np.random.default_rng(0)
    x, grad = (rng.standard_normal(shape).astype(np.float16) for shape in ((2, 8, 9, 9), (2, 8, 8, 8)))
    weight = np.zeros((8, 8, 2, 2), np.float16)
    first, again = (call("conv2d_backward", grad, x, weight, needs=("weight",))[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert room.launched == ["matrix_back_slim", "totals"] * 2


MISTAKES = {
    "no barrier before the use": ("wait()\n            cuda.syncthreads()", "wait()"),
    "no wait for the copies": ("            wait()\n", ""),
    "one wait less at the end": ("        wait_for_all()  #", "        #"),
    "a stage too few": ("base + (STAGES - 1) * stage", "base"),
    "lines that do not turn when they are read": (
        "four = words(used + at(line, piece, x_pieces))",
        "four = words(used + 16 * (line * x_pieces + piece))",
    ),
    "halves of another fragment": ("piece = half * 2 + lane // 8 % 2", "piece = half * 2 + lane // 16"),
    "positions beyond the last": ("if inside and p < p_end and f < f_end:", "if inside and f < f_end:"),
    "terms beyond the last": (
        "row, column, row_end, column_end = n0 + r, k + vector * piece, counts[2], last",
        "row, column, row_end, column_end = n0 + r, k + vector * piece, counts[2], last + 8",
    ),
    "the padding of another axis": ("h * moves[1] - moves[7], w", "h * moves[1] - moves[8], w"),
    "taps without dilation": ("tap_h * moves[4]", "tap_h"),
    "the first group": ("+ group * xs[4])", ")"),
    "outputs beyond the last": ("column < columns and n0 + column < counts[2]:", "column < columns:"),
    "one line of warps": ("for held in range(down):", "for held in range(1):"),
    "no barrier before the sums": (
        "        for held in range(down):\n            cuda.syncthreads()",
        "        for held in range(down):",
    ),
    "no barrier after the sums": ("            cuda.syncthreads()\n            line = r0", "            line = r0"),
    "the same split": ("first = split * counts[5]", "first = 0"),
    "unrounded": (
        "                    if rounds:\n                        for r in range(4):\n                            left",
        "                    if False:\n                        for r in range(4):\n                            left",
    ),
    "words of another line": ("half * 8 + 4 * (r // 2), x_piece", "half * 8 + 4 * (r % 2), x_piece"),
    "a tile turned the wrong way": ("words = columns_of_words if back else rows_of_words", "words = rows_of_words"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_found(mistake, clean):  # noqa: F811
    room = Room(clean, True, [("matrix", *MISTAKES[mistake])])
    layer = Conv((2, 18, 4, 5), (10, 9, 3, 2), (1, 2), (2, 1), (2, 1), 2)
    with pytest.raises((AssertionError, IndexError)):
        check_all(layer, room)


def check_all(layer, room):
    check(Conv((1, 9, 2, 3), (35, 9, 1, 1)), "float16", room)
    for kind in ("float16", "float32"):
        check(layer, kind, room)
    test_tf32_rounds_and_is_asked_for(room)
