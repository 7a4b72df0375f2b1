"""The CUDA room without a GPU: its kernels, from their own sources, in a simulator; what it would launch, as recorded.

Arrays hold small integers, so that sums are exact in any order and must be what the definition says to the last bit.
New arrays are full of NaN. Most cases run with small tiles and few threads, so that there are many blocks and tails.
"""

import importlib
import inspect
import sys

import cuda_simulator
import naive
import numpy as np
import pytest
import strict_cupy
from cases import CONV, MAX_POOL, POOL, Conv, over
from test_architecture import contract
from test_arrays import FORMS, whole

import cnnkit
from cnnkit import dispatch

SMALL = (("DEPTH = 16", "DEPTH = 2"), ("ACROSS, DOWN, WIDE = 16, 8, 8", "ACROSS, DOWN, WIDE = 4, 2, 2"))
SMALL += (("REDUCERS = 256", "REDUCERS = 8"), ("TAPS = 9", "TAPS = 4"))
SMALL_PLANES = (("PLANE = 128", "PLANE = 7"), ("PART = 32", "PART = 3"))
SMALL_TILES = (("WIDE, SLIM = Tile(4, 2, 2, 8), Tile(4, 2, 2, 4)", "WIDE, SLIM = Tile(2, 1, 1, 4), Tile(2, 1, 1, 2)"),)
FACTORIES = {  # what makes a kernel of a file's functions: the dtype's numbers, its name, and rows of `product`
    "averages": ("windows", lambda made, real, name, tall: made.averages(real, False)),
    "averages_back": ("windows", lambda made, real, name, tall: made.averages(real, True)),
    "maxima": ("windows", lambda made, real, name, tall: made.maxima(real)),
    "maxima_back": ("windows", lambda made, real, name, tall: made.maxima_back(real)),
    "product": ("convolve", lambda made, real, name, tall: made.product(real, tall)),
    "direct": ("convolve", lambda made, real, name, tall: made.direct(real)),
    "weight_gradient": ("convolve", lambda made, real, name, tall: made.weight_gradient(real)),
    "totals": ("convolve", lambda made, real, name, tall: made.totals(real)),
    "matrix": ("matrix", lambda made, real, name, tall: made.product(name, False, made.WIDE)),
    "matrix_slim": ("matrix", lambda made, real, name, tall: made.product(name, False, made.SLIM)),
    "matrix_back": ("matrix", lambda made, real, name, tall: made.product(name, True, made.WIDE)),
    "matrix_back_slim": ("matrix", lambda made, real, name, tall: made.product(name, True, made.SLIM)),
}


class Room:
    """The room on the stand-in for CuPy; kernels run in the simulator, after `changes` of their sources."""

    def __init__(self, monkeypatch, small, changes=()):
        self.launched = []
        strict_cupy.install(monkeypatch)
        monkeypatch.setattr(dispatch, "_why_no_kernels", lambda cupy: "")
        pytest.importorskip("numba.cuda", reason="this Numba has no cuda module", exc_type=ImportError)
        for name in [name for name in sys.modules if name.startswith("cnnkit.rooms.cuda")]:
            monkeypatch.delitem(sys.modules, name)
        launch = importlib.import_module("cnnkit.rooms.cuda.launch")
        self.compiler, self.problems, convolve = launch.compiler, launch.problems, launch.compiler.convolve
        matrix = launch.compiler.matrix
        monkeypatch.setattr(launch, "run", self.run)
        small_ones = {"convolve": SMALL, "matrix": SMALL_TILES, "windows": SMALL_PLANES} if small else {}
        sources = {name: list(small_ones.get(name, ())) for name in ("windows", "convolve", "matrix")}
        for name, *change in changes:
            sources[name].append(tuple(change))
        self.made = {name: cuda_simulator.source(name, *each) for name, each in sources.items()}
        if small:
            for name in ("DEPTH", "DOWN", "COLUMNS", "THREADS", "REDUCERS", "TAPS"):
                monkeypatch.setattr(convolve, name, getattr(self.made["convolve"], name))
            for name in ("WIDE", "SLIM"):
                monkeypatch.setattr(matrix, name, getattr(self.made["matrix"], name))
            monkeypatch.setattr(self.problems, "SHORTEST", 1)
            monkeypatch.setattr(launch.compiler.windows, "PART", self.made["windows"].PART)
            monkeypatch.setattr(convolve, "FEW", 3)
            monkeypatch.setattr(self.compiler, "TALL", {"float32": 2, "float64": 3})
            monkeypatch.setattr(self.compiler, "ELEMENTWISE", 5)

    def run(self, name, dtype, grid, *args):
        self.launched.append(name)
        self.check_arguments(name, dtype, args)
        file, factory = FACTORIES[name]
        made, numbers = self.made[file], self.made["convolve"]
        kind = dtype.name if dtype.name in self.compiler.HALVES else dtype.type
        kernel = factory(made, kind, dtype.name, self.compiler.TALL.get(dtype.name))
        threads = {
            "product": numbers.THREADS,
            "weight_gradient": numbers.REDUCERS,
            "maxima_back": self.made["windows"].PLANE,
        }.get(name, self.compiler.ELEMENTWISE)
        if file == "matrix":
            threads = (made.SLIM if name.endswith("slim") else made.WIDE).threads
        plain = [one._array if isinstance(one, strict_cupy.ndarray) else one for one in args]
        cuda_simulator.launch(kernel, grid, threads, *plain)

    def check_arguments(self, name, dtype, args):
        """What is packed is what the compiled kernel takes, one by one."""
        types = self.compiler.types
        wanted = []
        for one in self.compiler.KERNELS[name].arguments:
            wanted += [one.dtype] * len(one) if isinstance(one, types.UniTuple) else [one]
        for one, want in zip(self.problems.packed(args), wanted, strict=True):
            sums = "float32" if dtype.itemsize == 2 else dtype.name
            if isinstance(one, strict_cupy.ndarray):
                names = {self.compiler.NUMBERS: (dtype.name,), self.compiler.SUMS: (sums,)}
                assert one.dtype.name in names.get(want, ()) or want.dtype.name in (one.dtype.name, "int64")
            else:
                assert one.dtype.name == (sums if want is self.compiler.NUMBER else want.name)


@pytest.fixture
def clean(monkeypatch):
    yield monkeypatch
    monkeypatch.undo()
    for cached in (dispatch.why_not, dispatch._find):
        cached.cache_clear()


@pytest.fixture
def room(clean):
    return Room(clean, small=True)


def call(name, *args, **kwargs):
    """A public function of CuPy arrays that are views of the tests' own, on the cuda room if it has the op."""
    result = getattr(cnnkit, name)(*(strict_cupy.wrap(one) for one in args), **kwargs)
    return tuple(map(bare, result)) if isinstance(result, tuple) else bare(result)


def bare(array):
    return None if array is None else array._array


SLOW = ("1x1, 100 to 70", "stem", "2 wide groups", "odd sizes", "1d long kernel", "29 wide", "unequal strides")
RECORDS = "field of records"  # whose steps are no whole elements: left to CuPy
CONV_CASES = {name: case for name, case in CONV.items() if "channels" not in name and name not in SLOW}
CONV_CASES["9 to 11 channels"] = Conv((2, 9, 5, 4), (11, 9, 3, 2), stride=(1, 2), padding=1)


@over(CONV_CASES)
def test_convolutions(case, room):
    check_convolution(case, room)


def check_convolution(case, room, form=np.copy):
    x, weight, bias = (form(whole(s, np.float32, i)) for i, s in enumerate((case.x, case.weight, case.weight[:1])))
    lifted = x if x.ndim == case.count + 2 else x[None]
    expected = naive.conv(lifted, weight, bias, *case.solved)
    y = call(f"conv{case.count}d", x, weight, bias, *case.params)
    np.testing.assert_array_equal(y if y.ndim == expected.ndim else y[None], expected)
    np.testing.assert_array_equal(
        call(f"conv{case.count}d", x, weight, bias, *case.params, activation="relu"), y.clip(0)
    )
    grad = form(whole(y.shape, np.float32, 5))
    grads = call(f"conv{case.count}d_backward", grad, x, weight, *case.params)
    wanted = naive.conv_backward(grad if y.ndim == expected.ndim else grad[None], lifted, weight, *case.solved)
    for got, want in zip(grads, wanted, strict=True):
        np.testing.assert_array_equal(got.reshape(want.shape), want)
    uneven = any(step % one.itemsize for one in (x, weight, bias, grad) for step in one.strides)
    assert not y.size or uneven or {"product", "direct"} & set(room.launched)


@pytest.mark.parametrize("form", ["negative steps", "every other", "channels-last, backwards", "one number", RECORDS])
@pytest.mark.parametrize("name", ["2 groups", "depthwise, stride 2", "asymmetric, stride 2"])
def test_convolutions_of_any_memory(name, form, room):
    check_convolution(CONV[name], room, FORMS[form])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tile_of_the_real_size(dtype, clean):
    room = Room(clean, small=False)
    case = Conv((2, 3, 9, 8), (9, 3, 3, 3), padding=1)
    x, weight = whole(case.x, dtype, 1), whole(case.weight, dtype, 2)
    np.testing.assert_array_equal(
        call("conv2d", x, weight, None, *case.params), naive.conv(x, weight, None, *case.solved)
    )
    assert room.launched == ["product"]


@over(MAX_POOL)
def test_maxima(case, room):
    check_maxima(case, "plain", room)


@pytest.mark.parametrize("form", ["channels-last", "negative steps", "every other", "broadcast"])
@pytest.mark.parametrize("name", ["ceil, padded", "unequal dilations", "3d mixed"])
def test_maxima_of_any_memory(name, form, room):
    check_maxima(MAX_POOL[name], form, room)


def check_maxima(case, form, room):
    x = FORMS[form](whole(case.x, np.float32, 1))
    x = np.where(x == 3, np.float32(np.nan), x) if form == "plain" else x
    lifted = x if x.ndim == case.count + 2 else x[None]
    expected = naive.max_pool(lifted, *case.solved, case.dilation, case.ceil_mode)
    for got, want in zip(call(f"max_pool{case.count}d", x, *case[1:-1], return_indices=True), expected, strict=True):
        np.testing.assert_array_equal(got.reshape(want.shape), want)
    assert room.launched == ["maxima"] * bool(x.size)
    grad = whole(np.shape(expected[0]), np.float32, 2).reshape(expected[0].shape)
    indices = expected[1]
    if form != "plain":
        grad, indices = FORMS[form](grad), FORMS[form](indices)
    got = call(f"max_pool{case.count}d_backward", grad, indices, lifted.shape)
    np.testing.assert_array_equal(got, naive.max_pool_backward(grad, indices, lifted.shape))
    assert room.launched[1:] == ["maxima_back"] * bool(x.size)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves_are_read_and_written_as_they_are(kind, room):
    """Depthwise layers and pooling: float32 sums, rounded once."""
    half = pytest.importorskip("ml_dtypes").bfloat16 if kind == "bfloat16" else np.float16

    def same(got, want):
        np.testing.assert_array_equal(np.float32(got), np.float32(want.astype(half)))

    case = CONV["depthwise, multiplier 2"]
    x, weight, bias = (whole(s, np.float32, i) for i, s in enumerate((case.x, case.weight, case.weight[:1])))
    halves = [one.astype(half) for one in (x, weight, bias)]
    same(call("conv2d", *halves, *case.params), naive.conv(x, weight, bias, *case.solved))
    grad = whole((2, 8, 7, 7), np.float32, 4)
    got = call("conv2d_backward", grad.astype(half), *halves[:2], *case.params)
    for one, want in zip(got, naive.conv_backward(grad, x, weight, *case.solved), strict=True):
        same(one, want)
    pads = ((0, 0), (0, 0))
    y, indices = call("max_pool2d", halves[0], 2, return_indices=True)
    same(y, naive.max_pool(x, 2, 2, pads)[0])
    up = whole(y.shape, np.float32, 5)
    same(call("max_pool2d_backward", up.astype(half), indices, x.shape), naive.max_pool_backward(up, indices, x.shape))
    same(call("avg_pool2d", halves[0], 2), naive.avg_pool(x, 2, 2, pads))
    same(call("avg_pool2d_backward", up.astype(half), x.shape, 2), naive.avg_pool_backward(up, x.shape, 2, 2, pads))
    kernels = {"direct", "weight_gradient", "totals", "maxima", "maxima_back", "averages", "averages_back"}
    assert set(room.launched) == kernels


@over(POOL)
@pytest.mark.parametrize("pad", [False, True])
def test_averages(case, pad, room):
    check_averages(case, pad, room)


def check_averages(case, pad, room):
    x = whole(case.x, np.float64, 1)
    params = (*case[1:4], case.ceil_mode, pad)
    solved = (*case.solved, case.ceil_mode, pad)
    lifted = x if x.ndim == case.count + 2 else x[None]
    y = call(f"avg_pool{case.count}d", x, *params)
    np.testing.assert_allclose(
        y.reshape((len(lifted), -1, *y.shape[-case.count :])) if y.size else y,
        naive.avg_pool(lifted, *solved),
        rtol=1e-15,
    )
    grad = whole(y.shape, np.float64, 2)
    got = call(f"avg_pool{case.count}d_backward", grad, x.shape, *params)
    want = naive.avg_pool_backward(grad if x is lifted else grad[None], lifted.shape, *solved)
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-14, atol=1e-14)
    assert room.launched == ["averages", "averages_back"] * bool(x.size)


@pytest.mark.parametrize("sizes", [((7, 5), (3, 2)), ((3, 4), (5, 4)), ((6, 8), (1, 1))])
def test_windows_that_differ(sizes, room):
    size, out = sizes
    x, grad = whole((2, 3, *size), np.float64, 1), whole((2, 3, *out), np.float64, 2)
    for got, want in zip(
        call("adaptive_max_pool2d", x, out, return_indices=True), naive.adaptive_max_pool(x, out), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(call("adaptive_avg_pool2d", x, out), naive.adaptive_avg_pool(x, out), rtol=1e-15)
    want = naive.adaptive_avg_pool_backward(grad, x.shape)
    np.testing.assert_allclose(call("adaptive_avg_pool2d_backward", grad, x.shape), want, rtol=1e-14, atol=1e-14)


COPIES, SUMS = (
    "cuda.syncthreads()\n            for s in range(DEPTH):",
    "                        )\n            cuda.syncthreads()",
)
MISTAKES = {
    "no barrier after the copies": ("convolve", COPIES, COPIES.split("\n")[1].strip()),
    "no barrier before the next copies": ("convolve", SUMS, SUMS.split("\n")[0]),
    "no barrier before the results": ("convolve", "= sums[i_, j_]\n        cuda.syncthreads()", "= sums[i_, j_]"),
    "terms beyond the last": ("convolve", "if row < outputs and start + s < terms:", "if row < outputs:"),
    "outputs beyond the last": ("convolve", "if row < outputs and column < columns:", "if column < columns:"),
    "positions beyond the last": ("convolve", "start + s < terms and column < columns:", "start + s < terms:"),
    "the padding of another axis": ("convolve", "steps[7]\n        w0", "steps[8]\n        w0"),
    "the weights of the first group": ("convolve", "w_row = row * ws[0] + group * gs[1]", "w_row = row * ws[0]"),
    "a count that is not carried": ("convolve", "                    j += 1\n", ""),
}
GUARD = "if i >= count:\n            return\n        n, o,"
FAMILIES = {
    "depthwise: no bound of the rows": ("convolve", "if below(bt, sizes[1]) and", "if"),
    "depthwise: rows beyond the last": (
        "convolve",
        "for j in range(min(ROWS, sizes[7] - h)):",
        "for j in range(ROWS):",
    ),
    "depthwise: the first row for all": ("convolve", "total = third", "total = second"),
    "depthwise: the first channel": (
        "convolve",
        "np.int64(np.uint32(o) // np.uint32(counts[1])) * gs[0]",
        "0",
    ),
    "depthwise: no dilation": (
        "convolve",
        "et = w * steps[2] - steps[8] + e * steps[5]",
        "et = w * steps[2] - steps[8] + e",
    ),
    "depthwise: no bias": ("convolve", "first = read(bias[o])", "first = real(0)"),
    "depthwise: one thread more": ("convolve", GUARD, GUARD.replace(">=", ">")),
    "weights: a barrier less": ("convolve", "while half:\n            cuda.syncthreads()\n", "while half:\n"),
    "weights: no barrier in the end": ("convolve", "//= 2\n        cuda.syncthreads()\n", "//= 2\n"),
    "weights: half of the sums": ("convolve", "half = REDUCERS // 2", "half = REDUCERS // 4"),
    "weights: the same split": ("convolve", "start = split * terms", "start = 0"),
    "weights: all taps are there": ("convolve", "min(TAPS, every - cuda.blockIdx.y * TAPS)", "TAPS"),
    "weights: other taps": ("convolve", "b * steps[4], e * steps[5]", "e * steps[4], b * steps[5]"),
    "totals: one split less": ("convolve", "for split in range(splits):", "for split in range(splits - 1):"),
}
POOLING = {
    "ties go to the last": ("windows", "value > best", "value >= best"),
    "NaN does not win": ("windows", " or value != value", ""),
    "the width of the output": ("windows", "* extents[2] + et", "* shape[3] + et"),
    "the divisor of another axis": ("windows", "divisors[shape[1] + h] *", "divisors[h] *"),
    "one tap less": ("windows", "range(table[width + 1])", "range(table[width + 1] - 1)"),
    "undivided": ("windows", "value = value / real(part)", "pass"),
}
BACK = {
    "the last output is forgotten": ("windows", "last = o + 1", "last = o"),
    "outputs from the second on": ("windows", "if last == 0:", "if last <= 1:"),
    "how far the widths reach": ("windows", "at = np.int64(found % width)", "at = np.int64(rows % height)"),
    "no barrier after how far outputs reach": (
        "windows",
        "low, high\n        cuda.syncthreads()",
        "low, high",
    ),
    "no barrier before the gradients": ("windows", "first, last\n        cuda.syncthreads()", "first, last"),
    "a part of the plane twice": ("windows", "start = cuda.blockIdx.y * PART", "start = 0"),
    "whatever lies there": ("windows", "if indices[j0 + a * js[2] + b * js[3] + e * js[4]] == i:", "if True:"),
    "the gradients of the first plane": ("windows", "g0, j0, y0 = n * gs[0] + c * gs[1]", "g0, j0, y0 = 0"),
    "one more than the plane has": ("windows", "min(start + PART, extents", "min(start + PART, 1 + extents"),
}
LAYERS = {
    **dict.fromkeys(MISTAKES, Conv((2, 6, 5, 6), (10, 3, 3, 2), stride=(1, 2), padding=(2, 1), groups=2)),
    **dict.fromkeys(FAMILIES, Conv((2, 2, 6, 7), (4, 1, 3, 2), (1, 2), (1, 2), (2, 3), 2)),
}


@pytest.mark.parametrize("mistake", MISTAKES | FAMILIES)
def test_planted_mistakes_of_convolutions_are_found(mistake, clean):
    case = LAYERS[mistake]
    room = Room(clean, True, [(MISTAKES | FAMILIES)[mistake]])
    with pytest.raises((AssertionError, IndexError, KeyError)):
        check_convolution(case, room)


@pytest.mark.parametrize("mistake", POOLING)
def test_planted_mistakes_of_pooling_are_found(mistake, clean):
    room, case = Room(clean, True, [POOLING[mistake]]), MAX_POOL["ceil, padded"]
    found = []
    for check in (lambda: check_averages(case, False, room), lambda: check_maxima(case, "plain", room)):
        room.launched.clear()
        try:
            check()
        except AssertionError as error:
            found.append(error)
    assert len(found) == 1


@pytest.mark.parametrize("mistake", BACK)
def test_planted_mistakes_of_the_way_back_of_maxima_are_found(mistake, clean):
    room = Room(clean, True, [BACK[mistake]])
    with pytest.raises(AssertionError):
        check_maxima(MAX_POOL["non-square"], "plain", room)


def test_any_places_have_their_way_back(room):
    """Also such as no windows have; planes too large for the table are left to CuPy."""
    rng = np.random.default_rng(0)
    indices, grad = rng.integers(0, 30, (2, 3, 4, 5)), whole((2, 3, 4, 5), np.float32, 1)
    want = naive.max_pool_backward(grad, indices, (2, 3, 5, 6))
    np.testing.assert_array_equal(call("max_pool2d_backward", grad, indices, (2, 3, 5, 6)), want)
    assert room.launched == ["maxima_back"]
    call("max_pool2d_backward", grad, indices, (2, 3, 1, 5000))
    assert room.launched == ["maxima_back"]


@pytest.mark.parametrize(("stride", "kernel", "groups"), [(1, 3, 2), (2, 3, 1), (3, 2, 1), (2, 3, 4)])
def test_transposed_convolutions(stride, kernel, groups, room):
    """Also with a stride over the kernel, where some results are the bias alone."""
    x, weight = whole((2, 4, 3, 4), np.float32, 1), whole((4, 5, kernel, kernel), np.float32, 2)
    bias = whole((5 * groups,), np.float32, 3)
    expected = naive.conv_transpose(x, weight, bias, stride, ((1, 1), (1, 1)), 0, groups, 1)
    np.testing.assert_array_equal(call("conv_transpose2d", x, weight, bias, stride, 1, 0, groups), expected)
    assert set(room.launched) == {"product"}


def test_another_activation_is_a_pass_of_its_own(room):
    x, weight = whole((2, 3, 4, 5), np.float32, 1), whole((4, 3, 3, 3), np.float32, 2)
    got = call("conv2d", x, weight, activation="sigmoid")
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-naive.conv(x, weight, None, 1, ((0, 0),) * 2, 1, 1))), rtol=1e-6)


def test_the_room_keeps_the_contract(room):
    module = importlib.import_module("cnnkit.rooms.cuda")
    assert set(module.__all__) <= set(contract())
    for op in module.__all__:
        assert list(inspect.signature(getattr(module, op)).parameters) == contract()[op], op
