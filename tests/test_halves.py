"""float16 and bfloat16: every op takes them, sums them in float32 and rounds once.

Most inputs are small integers, of which float32 sums are exact: the result is then the truth rounded to a half, to the
last bit. What rounds on the way is met within half a unit and the bound of float32.
"""

import functools
import inspect
import subprocess
import sys

import naive
import numpy as np
import pytest
from cases import normal
from closeness import assert_close, assert_same
from test_architecture import contract
from test_arrays import ALONG, EVERY, FORMS, FUNCTIONS, SHAPE, as_list, channels_last, native, whole

import cnnkit
from cnnkit import dispatch, halves, nn

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 is a dtype of ml_dtypes")
HALVES = {"float16": np.dtype("float16"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@pytest.fixture(params=HALVES)
def half(request):
    return HALVES[request.param]


@pytest.fixture(autouse=True)
def no_gpu(request):
    """The mixture of CuPy and ml_dtypes is CuPy's to make."""
    if "backend" in request.fixturenames and request.getfixturevalue("backend") in ("cuda", "cupy"):
        pytest.skip("halves are tested on the CPU")


def given(shapes, half, form=np.copy):
    return [form(whole(shape, half, seed)) for seed, shape in enumerate(shapes)]


def truth(definition, arrays):
    """The definition in float64."""
    return as_list(definition(*(native(a).astype(np.float64) for a in arrays)))


# --- every op ------------------------------------------------------------------------------------


def test_every_op_of_the_contract_is_tried_here(monkeypatch):
    """A new row of the contract needs one in `test_arrays.FUNCTIONS` or `ALONG`, which all other tests go through."""
    asked = set()

    def noted(op, *how):
        asked.add(op)
        return find(op, *how)

    find = dispatch._find
    monkeypatch.setattr(dispatch, "_find", noted)
    for shapes, call, _ in EVERY.values():
        call(*given(shapes, HALVES["float16"]))
    assert set(contract()) - asked == set()


def test_what_is_said_of_the_contract_is_in_it():
    names = {name for parameters in contract().values() for name in parameters}
    assert set(halves.BATCHED) <= names
    assert set(halves.IN_PARTS) <= set(contract())


def test_every_name_of_the_contract_is_an_input_or_a_result():
    """Which are results is told by their names: a new name has to be put on one side, and be called so."""
    inputs = {
        "x",
        "weight",
        "bias",
        "grad_output",
        "logits",
        "labels",
        "scale",
        "plan",
        "divisors",
        "activation",
        "axis",
        *("y", "target", "kept", "gamma", "beta", "eps", "measure", "norm_type", "label_smoothing"),
    }
    inputs |= {"indices", "mean", "variance"}  # these are results too, but no halves
    names = {name for parameters in contract().values() for name in parameters}
    assert {name for name in names if halves._filled(name)} == names - inputs


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exact_sums_are_rounded_once(name, half, backend):
    shapes, call, definition = FUNCTIONS[name]
    arrays = given(shapes, half)
    for got, want in zip(as_list(call(*arrays)), truth(definition, arrays), strict=True):
        assert_same(got, want if want.dtype == np.int64 else want.astype(half))


@pytest.mark.parametrize("name", ALONG)
def test_softmax_and_losses_are_within_half_a_unit(name, half, backend):
    shapes, call, definition = ALONG[name]
    arrays = given(shapes, half)
    (want,) = truth(definition, arrays)
    assert_close(call(*arrays), want, 4 * 4 * 8, 4, half)  # as in test_arrays


@pytest.mark.parametrize("name", EVERY)
def test_inputs_are_never_written(name, half, backend):
    shapes, call, _ = EVERY[name]
    arrays = given(shapes, half)
    before = [a.copy() for a in arrays]
    call(*arrays)
    for array, copy in zip(arrays, before, strict=True):
        assert_same(array, copy)


def test_sums_that_round_are_within_half_a_unit(half, backend):
    x, weight, bias = normal((2, 16, 9, 8), half, 1), normal((8, 16, 3, 3), half, 2), normal((8,), half, 3)
    wide = [a.astype(np.float64) for a in (x, weight, bias)]
    layer = (1, ((1, 1), (1, 1)), 1, 1)
    y, size = naive.conv(*wide, *layer), naive.conv(*map(np.abs, wide), *layer)
    assert_close(cnnkit.conv2d(x, weight, bias, 1, 1), y, size, 145, half)
    grad = normal(y.shape, half, 4)
    wide = [a.astype(np.float64) for a in (grad, x, weight)]
    truths, sizes = naive.conv_backward(*wide, *layer), naive.conv_backward(*map(np.abs, wide), *layer)
    for got, want, most in zip(cnnkit.conv2d_backward(grad, x, weight, 1, 1), truths, sizes, strict=True):
        assert_close(got, want, most, 144, half)
    x, weight = normal((5, 300), half, 5), normal((7, 300), half, 6)
    wide = [a.astype(np.float64) for a in (x, weight)]
    assert_close(cnnkit.dense(x, weight), wide[0] @ wide[1].T, abs(wide[0]) @ abs(wide[1].T), 300, half)


def test_a_mean_of_losses_is_rounded_once(half, backend):
    logits, labels = normal((999, 10), half, 1), np.arange(999) % 10
    for reduction in ("mean", "sum"):
        loss = cnnkit.cross_entropy(logits, labels, reduction=reduction)
        truth = naive.cross_entropy(logits.astype(np.float64), labels, reduction=reduction)
        assert_close(loss, truth, truth, 12, half)  # pairwise sums are shorter than their number of terms
        grad = cnnkit.cross_entropy_backward(1.0, logits, labels, reduction=reduction)
        truth = naive.cross_entropy_backward(1.0, logits.astype(np.float64), labels, reduction=reduction)
        assert_close(grad, truth, 1 if reduction == "sum" else 1 / 999, 12, half)


def test_maxima_are_exact_and_nan_wins(half, backend):
    x = normal((2, 3, 9, 8), half, 1)
    x[0, 0, 2, 2], x[0, 1, 5, 5], x[1, 2, 0, 0], x[1, 0] = np.nan, np.inf, -np.inf, -0.0
    y, indices = cnnkit.max_pool2d(x, 3, 2, 1, return_indices=True)
    pads = ((1, 1), (1, 1))
    want, places = naive.max_pool(x.astype(np.float64), 3, 2, pads)
    assert_same(y, want.astype(half))
    assert_same(indices, places)
    assert np.isnan(y.astype(np.float32)).any()


def test_what_is_too_large_is_infinite_without_a_warning(backend):
    x, weight = np.full((1, 4, 1, 1), 2e4, np.float16), np.ones((2, 4, 1, 1), np.float16)
    assert np.isposinf(cnnkit.conv2d(x, weight)).all()
    assert np.isneginf(cnnkit.conv2d(x, -weight)).all()
    assert np.isposinf(
        cnnkit.cross_entropy(np.array([[6e4, 0], [6e4, 0]], np.float16), np.array([1, 1]), reduction="sum")
    )


def test_small_numbers_are_kept(half, backend):
    least = np.array(halves_smallest(half), half)
    x = np.full((1, 1, 2, 2), least)
    assert_same(cnnkit.conv2d(x, np.ones((1, 1, 1, 1), half)), x)
    assert_same(cnnkit.avg_pool2d(x, 2), x[..., :1, :1])


def halves_smallest(half):
    return {"float16": 2.0**-24, "bfloat16": 2.0**-133}[half.name]


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("name", ["conv2d", "conv2d_backward", "max_pool2d", "dense", "relu_backward"])
def test_any_memory_gives_the_right_answer(name, form, half, backend):
    if half.name == "bfloat16" and form in (FORMS["byte-swapped"], FORMS["byte-swapped, every other"]):
        pytest.skip("ml_dtypes has no bfloat16 of the other byte order")
    shapes, call, definition = FUNCTIONS[name]
    arrays = given(shapes, half, form)
    for got, want in zip(as_list(call(*arrays)), truth(definition, arrays), strict=True):
        assert_same(got, want if want.dtype == np.int64 else want.astype(half))


def test_channels_last_stays_so(half, backend):
    x, weight = channels_last(whole(SHAPE, half, 1)), whole((5, 4, 3, 3), half, 2)
    y = cnnkit.conv2d(x, weight)
    for result in (y, cnnkit.conv2d_backward(y, x, weight).x, cnnkit.max_pool2d(x, 2), cnnkit.relu(x)):
        assert np.moveaxis(result, 1, -1).flags.c_contiguous


@pytest.mark.parametrize("order", ["C", "F"])
def test_out_takes_halves(order, half, backend):
    x, weight = whole((3, 4), half, 1), whole((5, 4), half, 2)
    out = np.empty((3, 5), half, order)
    assert cnnkit.dense(x, weight, out=out) is out
    assert_same(out, cnnkit.dense(x, weight))


SEVEN = (7, 4, 6, 8)  # seven images
IN_PARTS = {  # name: (shapes, the call, the definition, bytes of float32 for one image)
    "conv2d": (
        [SEVEN, (5, 4, 1, 1), (5,)],
        lambda x, w, b: cnnkit.conv2d(x, w, b),
        lambda x, w, b: naive.conv(x, w, b, 1, ((0, 0), (0, 0)), 1, 1),
        4 * (4 + 5) * 48,
    ),
    "conv2d_backward": (
        [(7, 5, 6, 8), SEVEN, (5, 4, 1, 1)],
        lambda g, x, w: cnnkit.conv2d_backward(g, x, w),
        lambda g, x, w: naive.conv_backward(g, x, w, 1, ((0, 0), (0, 0)), 1, 1),
        4 * (4 + 5 + 4) * 48,
    ),
    "max_pool2d": (
        [SEVEN],
        lambda x: cnnkit.max_pool2d(x, 2, return_indices=True),
        lambda x: naive.max_pool(x, 2, 2, ((0, 0), (0, 0))),
        4 * 4 * (48 + 12),
    ),
    "dense_backward": (
        [(7, 9), (7, 17), (9, 17)],
        lambda *a: cnnkit.dense_backward(*a),
        naive.dense_backward,
        4 * (9 + 17 + 17),
    ),
    "relu": ([SEVEN], lambda x: cnnkit.relu(x), naive.relu, 4 * 4 * 96),
    "cross_entropy": (
        [(7, 1)],
        lambda x: cnnkit.cross_entropy(x, np.zeros(7, int), reduction="none"),
        lambda x: naive.cross_entropy(x, np.zeros(7, int), reduction="none"),
        4 * 2,
    ),
}


@pytest.mark.parametrize("images", [7, 4, 1])
@pytest.mark.parametrize("name", IN_PARTS)
def test_a_batch_is_done_in_parts_that_fit_the_workspace(name, images, half, backend, monkeypatch):
    """Copies are no larger than they may be, and sums over parts are the sums over all."""
    shapes, call, definition, of_one = IN_PARTS[name]
    find, sizes = dispatch._find, []

    def spied(*args):
        if args[0] in ("widen", "narrow"):
            return find(*args)

        @functools.wraps(find(*args))
        def spy(*arrays):
            given = dict(zip(inspect.signature(find(*args)).parameters, arrays, strict=True))
            batched = [given[key] for key in halves.BATCHED if given.get(key) is not None]
            sizes.append(sum(array.nbytes for array in batched if array.dtype == np.float32))
            find(*args)(*arrays)

        return spy

    monkeypatch.setattr(dispatch, "_find", spied)
    arrays = given(shapes, half)
    with cnnkit.options(max_workspace=of_one * images + 3 if images > 1 else 0):
        results = as_list(call(*arrays))
    assert sizes == [of_one * min(images, 7 - start) for start in range(0, 7, images)]
    for got, want in zip(results, truth(definition, arrays), strict=True):
        assert got.dtype == (np.int64 if want.dtype == np.int64 else half)
        np.testing.assert_array_equal(got, want.astype(got.dtype))


def test_softmax_along_the_batch_is_done_at_once(half, backend):
    x = normal((9, 4), half, 1)
    with cnnkit.options(max_workspace=0):
        y = cnnkit.softmax(x, 0)
    assert_close(y, naive.softmax(x.astype(np.float64), 0), 10, 9, half)


def test_empty_and_unbatched_arrays(half, backend):
    weight = whole((5, 4, 3, 3), half, 1)
    assert cnnkit.conv2d(np.empty((0, 4, 6, 6), half), weight).shape == (0, 5, 4, 4)
    grads = cnnkit.conv2d_backward(np.empty((0, 5, 4, 4), half), np.empty((0, 4, 6, 6), half), weight)
    assert_same(grads.weight, np.zeros_like(weight))
    x = whole((4, 6, 6), half, 2)
    assert_same(cnnkit.conv2d(x, weight), cnnkit.conv2d(x[None], weight)[0])
    assert_same(cnnkit.relu(np.array(-1, half)), np.array(0, half))


# --- float32 and back ----------------------------------------------------------------------------

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16)


def same_numbers(a, b):
    """The same bits, but for those of NaN."""
    np.testing.assert_array_equal(a.astype(np.float32), b.astype(np.float32))
    there = ~np.isnan(b.astype(np.float32))
    assert_same(a[there], b[there])


@pytest.mark.parametrize("step", [1, 2])
def test_every_half_is_widened_and_comes_back(step, half, backend):
    x = EVERY_HALF.view(half)[::step]
    wide, back = np.empty(x.shape, np.float32), np.empty(x.shape, half)
    dispatch.implementation("widen", wide)(x, wide)
    same_numbers(wide, x.astype(np.float32))
    dispatch.implementation("narrow", wide)(wide, back)
    same_numbers(back, x)


def test_numbers_are_rounded_to_the_nearest_half_and_ties_to_even(half, backend):
    """At every half, just beside it, at the ties between it and the next, and just beside these."""
    bits = EVERY_HALF.view(half).astype(np.float32).view(np.uint32).astype(np.int64)
    tie = 1 << (22 - {"float16": 10, "bfloat16": 7}[half.name])
    beside = np.array([0, -1, 1, tie - 1, tie, tie + 1, 2 * tie - 1])
    x = (bits[:, None] + beside).astype(np.uint32).view(np.float32)
    out = np.empty(x.shape, half)
    dispatch.implementation("narrow", x)(x, out)
    with np.errstate(over="ignore", invalid="ignore"):
        same_numbers(out, x.astype(half))


# --- mistakes ------------------------------------------------------------------------------------

NEEDED = "but float16, bfloat16, float32 or float64 is needed"


@pytest.mark.parametrize("other", ["float32", "float64", "float16"])
def test_halves_are_not_mixed(other):
    x = np.ones((2, 3), ml_dtypes.bfloat16)
    with pytest.raises(TypeError, match=f"^weight is {other}, but x is bfloat16: one dtype a call$"):
        cnnkit.dense(x, np.ones((4, 3), other))
    with pytest.raises(TypeError, match=f"^x is bfloat16, but grad_output is {other}: one dtype a call$"):
        cnnkit.relu_backward(np.ones((2, 3), other), x)
    with pytest.raises(TypeError, match=f"^out is {other}, but the result is bfloat16$"):
        cnnkit.dense(x, np.ones((4, 3), ml_dtypes.bfloat16), out=np.ones((2, 4), other))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn", "int4"])
def test_smaller_floats_are_refused_by_name(name):
    x = np.ones((2, 3), getattr(ml_dtypes, name))
    with pytest.raises(TypeError, match=f"^x is {name}, {NEEDED}$"):
        cnnkit.relu(x)
    with pytest.raises(TypeError, match=f"^x is {name}, but float16, bfloat16, float32, float64, int8, "):
        cnnkit.max_pool1d(x, 2)


def test_layers_keep_their_parameters_in_float32_or_float64():
    layer, x = nn.Conv2d(3, 4, 3, rng=0), np.ones((1, 3, 5, 5), np.float16)
    with pytest.raises(TypeError, match=r"^weight is float32, but x is float16: one dtype a call$"):
        layer(x)
    with pytest.raises(TypeError, match=r"^dtype is bfloat16, but a layer needs float32 or float64$"):
        nn.Dense(3, 4, dtype=ml_dtypes.bfloat16)
    assert nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())(x).dtype == np.float16


def test_float16_needs_no_ml_dtypes():
    code = (
        "import sys; sys.modules['ml_dtypes'] = None; import cnnkit, numpy as np;"
        "print(cnnkit.relu(np.array([-1, 2], 'float16')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[0. 2.]"
