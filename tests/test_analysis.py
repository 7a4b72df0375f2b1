"""What `cnnkit.analysis` counts and measures: the numbers of the lessons, pencil and paper, and probing with arrays."""

import inspect
import math
import subprocess
import sys

import numpy as np
import pytest
from closeness import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnkit
from cnnkit import analysis, nn, optim
from cnnkit.cli.explain.equivariance import functions as answers
from cnnkit.cli.explain.locality import cross
from cnnkit.cli.explain.receptive_field import ALEXNET
from cnnkit.cli.explain.slide import image as small_image
from cnnkit.cli.explain.sobel import checkerboard, edges
from cnnkit.cli.explain.when_not import races
from cnnkit.datasets import digits, photograph, shift, split

CONV = {1: cnnkit.conv1d, 2: cnnkit.conv2d, 3: cnnkit.conv3d}
CONV_BACKWARD = {1: cnnkit.conv1d_backward, 2: cnnkit.conv2d_backward, 3: cnnkit.conv3d_backward}


class Residual(nn.Layer):
    """A block with a way past it, as `nn.Residual` is one."""

    def __init__(self, body, shortcut=None):
        self.body, self.shortcut = body, shortcut

    def __call__(self, x):
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))

    def forward(self, x, rng=None):
        raise NotImplementedError

    def parameters(self):
        ways = {"body": self.body, "shortcut": self.shortcut}
        return {f"{way}.{k}": v for way, layer in ways.items() if layer for k, v in layer.parameters().items()}


class Mine(nn.Layer):
    """A layer of a user's own: nothing is known of it."""

    def __init__(self, factor=2):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def forward(self, x, rng=None):
        return self(x), lambda grad_y, needs_x=True: (self.factor * grad_y, {})


def conv(*arguments, **options):
    return nn.Conv2d(*arguments, rng=0, dtype="float64", **options)


# ---------------------------------------------------------------- counting: the numbers of the lessons


@pytest.mark.parametrize(
    ("inputs", "outputs", "bias", "count"),
    [
        (28 * 28, 100, True, 78_500),
        (100 * 100 * 3, 100, False, 3_000_000),
        (28 * 28, 128, False, 100_352),
        (28 * 28, 1000, True, 785_000),
        (32 * 32 * 3, 1000, True, 3_073_000),
        (32 * 32 * 3, 1000, False, 3_072_000),
        (224 * 224 * 3, 1000, True, 150_529_000),
        (224 * 224 * 3, 1000, False, 150_528_000),
        (1920 * 1080 * 3, 1000, True, 6_220_801_000),
        (512 * 512 * 3, 1000, True, 786_433_000),
        (64 * 64 * 3, 512, True, 6_291_968),
        (200 * 200 * 3, 1000, False, 120_000_000),
        (1000 * 1000 * 3, 1, False, 3_000_000),
        (1920 * 1080 * 3, 1, False, 6_220_800),
    ],
)
def test_dense_parameters(inputs, outputs, bias, count):
    assert analysis.dense_parameters(inputs, outputs, bias=bias) == count


def test_rounded_dense_numbers():
    assert analysis.dense_parameters(224 * 224 * 3, 1024) > 154_000_000
    assert round(4 * analysis.dense_parameters(32 * 32 * 3, 1000, bias=False) / 1e6) == 12  # megabytes


@pytest.mark.parametrize(
    ("arguments", "options", "count"),
    [
        ((1, 8, 3), {}, 80),
        ((3, 32, 3), {"bias": False}, 864),
        ((1, 16, 3), {"bias": False}, 144),
        ((3, 64, 5), {}, 4_864),
        ((3, 1, 3), {"bias": False}, 27),
        ((4, 6, (5,)), {"groups": 2}, 6 * (2 * 5 + 1)),
        ((8, 8, (3, 3, 3)), {"groups": 8, "bias": False}, 8 * 27),
    ],
)
def test_conv_parameters(arguments, options, count):
    assert analysis.conv_parameters(*arguments, **options) == count
    size = arguments[2] if isinstance(arguments[2], tuple) else (3, 3)
    layer = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(size)](*arguments, **options)
    assert sum(array.size for array in layer.parameters().values()) == count


def test_a_filter_bank_takes_few_bytes():
    assert 4 * analysis.conv_parameters(3, 32, 3, bias=False) == 3_456  # about 3.5 KB


def test_savings():
    small = analysis.parameter_savings((1, 28, 28), 128, 16, 3, bias=False)
    assert (small.dense, small.conv, int(small.ratio), round(small.ratio)) == (100_352, 144, 696, 697)
    large = analysis.parameter_savings((3, 64, 64), 512, 64, 5)
    assert (large.dense, large.conv, round(large.ratio)) == (6_291_968, 4_864, 1_294)
    feature = analysis.parameter_savings((1, 224, 224), 1, 1, 3, bias=False)
    assert (feature.dense, feature.conv, round(feature.ratio)) == (50_176, 9, 5_575)
    matrix = analysis.parameter_savings((1, 224, 224), None, 1, 3, bias=False)
    assert matrix.dense == 50_176**2 == 2_517_630_976
    assert round(matrix.ratio / 1e6) == 280
    assert matrix.connections == (3 * 224 - 2) ** 2 == 448_900  # along each axis 224 windows of 3, less the two ends


@pytest.mark.parametrize(("side", "dense"), [(28, 100_352), (64, 524_288), (224, 6_422_528)])
def test_dense_weights_grow_with_the_image_and_shared_ones_do_not(side, dense):
    saved = analysis.parameter_savings((1, side, side), 128, 16, 3, bias=False)
    assert (saved.dense, saved.conv) == (dense, 144)


@pytest.mark.parametrize(("shape", "kernel", "groups"), [((4, 9), 3, 2), ((2, 5, 7), (1, 4), 1), ((3, 3, 4, 5), 2, 3)])
def test_connections_are_the_entries_of_the_matrix(shape, kernel, groups):
    pytest.importorskip("scipy", reason="conv_matrix makes a sparse matrix")
    ndim = len(shape) - 1
    size = kernel if isinstance(kernel, tuple) else (kernel,) * ndim
    saved = analysis.parameter_savings(shape, None, 6, kernel, groups=groups)
    matrix = analysis.conv_matrix(np.ones((6, shape[0] // groups, *size)), shape, padding="same", groups=groups)
    assert saved.connections == matrix.nnz
    assert saved.dense == math.prod(matrix.shape) + matrix.shape[0]


@pytest.mark.parametrize(
    ("parameters", "least", "most"),
    [(800_000, 4_000_000, 8_000_000), (3_000_000, 15_000_000, 30_000_000), (150_000_000, 750_000_000, 1_500_000_000)],
)
def test_training_examples_needed(parameters, least, most):
    assert analysis.training_examples_needed(parameters) == (least, most)
    assert least > 1_281_167 > 60_000 > 50_000  # ImageNet, MNIST, CIFAR-10


def test_possible_images():
    assert analysis.possible_images(3, levels=2) == 8
    assert analysis.possible_images(28 * 28) == 256**784
    assert math.floor(math.log10(analysis.possible_images(28 * 28))) == 1888


# ---------------------------------------------------------------- locality, sharing


def test_flattening_destroys_position():
    assert analysis.changed_positions(cross(7), (0, 1)) == 13
    assert analysis.changed_positions(cross(5), (0, 1)) == 9  # and not 17, as is often printed
    assert analysis.changed_positions(cross(5), 0) == 0


def test_a_dense_layer_answers_very_differently_to_the_moved_cross_and_a_convolution_does_not():
    x, rng = cross(7)[None, None], np.random.default_rng(0)
    matrix, weight = rng.normal(size=(49, 49)), rng.normal(size=(1, 1, 3, 3))
    assert analysis.invariance_error(lambda x: x.reshape(1, 49) @ matrix, x, (0, 1)) > 1
    assert analysis.equivariance_error(lambda x: cnnkit.conv2d(x, weight), x, (0, 1)) == 0


def test_neighbours_are_correlated_and_distant_pixels_are_not():
    noise = np.random.default_rng(0).normal(size=(128, 128))
    photo = photograph()
    assert abs(analysis.neighbour_correlation(noise)) < 0.02
    assert analysis.neighbour_correlation(photo) > 0.9
    falling = [analysis.neighbour_correlation(photo, distance) for distance in (1, 2, 4, 8, 16, 32)]
    assert falling == sorted(falling, reverse=True)
    assert abs(falling[-1]) < 0.1
    assert analysis.neighbour_correlation(digits().x) > 0.5  # strokes of one or two pixels


def test_correlation_by_hand_and_by_numpy():
    stripes = np.tile([0.0, 1.0], (4, 1))  # 3 pairs (0, 0) and 3 pairs (1, 1) below, 4 pairs (0, 1) to the right
    assert analysis.neighbour_correlation(stripes) == pytest.approx((0.3 - 0.3 * 0.7) / (0.3 * 0.7))
    image = np.random.default_rng(0).normal(size=(3, 6, 7)).cumsum(1)
    here = np.concatenate([image[:, :-2].ravel(), image[:, :, :-2].ravel()])
    there = np.concatenate([image[:, 2:].ravel(), image[:, :, 2:].ravel()])
    assert analysis.neighbour_correlation(image, 2) == pytest.approx(np.corrcoef(here, there)[0, 1])
    assert math.isnan(analysis.neighbour_correlation(np.ones((4, 4), np.uint8)))


def test_the_kernel_slides_with_the_sums_written_out(backend):
    x, kernel = small_image(), analysis.sobel(1)
    steps = analysis.slide(x, kernel)
    assert steps[0].text == (
        "(1 x -1) + (2 x 0) + (0 x 1) + (0 x -2) + (1 x 0) + (2 x 2) + (2 x -1) + (0 x 0) + (1 x 1) = 2"
    )
    assert len(steps) == 9
    assert [step.position for step in steps] == list(np.ndindex(3, 3))
    output = np.array([step.total for step in steps]).reshape(3, 3)
    np.testing.assert_array_equal(output, cnnkit.conv2d(x[None], kernel[None, None])[0])  # exact: small whole numbers
    naive = [
        [sum(x[i + m, j + n] * kernel[m, n] for m in range(3) for n in range(3)) for j in range(3)] for i in range(3)
    ]
    np.testing.assert_array_equal(output, naive)


def test_slide_sums_bytes_without_overflow():
    white = np.full((3, 3), 255, np.uint8)
    assert [step.total for step in analysis.slide(white, white)] == [9 * 255**2]


def test_slide_with_stride_and_padding():
    x, kernel = np.arange(20.0).reshape(4, 5), np.arange(6.0).reshape(2, 3)
    padding = ((1, 0), (0, 2))
    steps = analysis.slide(x, kernel, (2, 3), padding)
    expected = cnnkit.conv2d(x[None], kernel[None, None], None, (2, 3), padding)[0]
    np.testing.assert_array_equal([step.total for step in steps], expected.ravel())
    assert all(eval(step.text.replace(" x ", " * ").replace(" = ", " == ")) for step in steps)


def test_sobel():
    np.testing.assert_array_equal(analysis.sobel(1), [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    np.testing.assert_array_equal(analysis.sobel(0), [[-1, -2, -1], [0, 0, 0], [1, 2, 1]])
    assert analysis.sobel(0).size == 9
    assert analysis.sobel(-1, dtype="float32").dtype == np.float32
    with pytest.raises(TypeError, match=r"^dtype is uint8, but a floating-point type is needed$"):
        analysis.sobel(1, dtype="uint8")
    ndimage = pytest.importorskip("scipy.ndimage", reason="a second opinion")
    photo = photograph(dtype="float64")
    for axis in (0, 1):
        theirs = ndimage.sobel(photo, axis)[1:-1, 1:-1]
        assert_close(edges(photo, axis), theirs, 8.0, 9)


def test_sobel_finds_nothing_on_a_checkerboard_of_single_pixels():
    np.testing.assert_array_equal(checkerboard(), np.indices((8, 8)).sum(0) % 2)
    assert not edges(checkerboard(), 0).any()
    assert not edges(checkerboard(), 1).any()
    assert np.abs(edges(np.kron(checkerboard(), np.ones((2, 2))), 1)).max() == 2


# ---------------------------------------------------------------- equivariance and invariance


def test_a_convolution_is_equivariant_away_from_the_border_and_a_dense_layer_is_not(backend):
    x = cnnkit.avg_pool2d(photograph(dtype="float64")[None, None], 4)
    f = answers()
    for by in (5, (5, 0), (-5, 3)):
        assert analysis.equivariance_error(f["conv"], x, by) == 0
        assert analysis.equivariance_error(f["conv, padded"], x, by, border=1) == 0
        assert 0 < analysis.equivariance_error(f["conv, padded"], x, by) < 0.2
        assert analysis.equivariance_error(f["dense"], x, by) > 1


def test_a_stride_breaks_equivariance_for_shifts_that_it_does_not_divide(backend):
    x = cnnkit.avg_pool2d(photograph(dtype="float64")[None, None], 4)
    error = [analysis.equivariance_error(answers()["conv, stride 2"], x, (0, by), stride=2) for by in range(-4, 5)]
    assert error[::2] == [0] * 5
    assert min(error[1::2]) > 0.1
    assert analysis.equivariance_error(answers()["conv, stride 2"], x, (2, 4), stride=(2, 2)) == 0


def test_equivariance_error_by_hand():
    x = np.array([[[1.0, 2.0, 3.0, 4.0]]])
    add = np.array([10.0, 0.0, 0.0, 0.0])  # knows where it is
    # moved by one: fn(shift) = [10, 1, 2, 3], shift(fn) = [_, 11, 2, 3]
    assert analysis.equivariance_error(lambda x: x + add, x, 1) == pytest.approx(10 / math.sqrt(121 + 4 + 9))
    assert analysis.equivariance_error(lambda x: x + add, x, 1, border=1) == 0
    assert analysis.equivariance_error(lambda x: 0 * x, x, 1) == 0


def test_invariance_comes_from_pooling_and_only_nearly():
    x = digits(canvas=28).x[:50]
    pools = {"none": nn.Flatten(), "max": nn.MaxPool2d(4), "avg": nn.AvgPool2d(4), "global": nn.GlobalMaxPool2d()}
    for by in range(1, 9):
        error = {name: analysis.invariance_error(pool, x, (0, by)) for name, pool in pools.items()}
        assert error["global"] == 0
        assert error["max"] > 0.2
        assert error["avg"] > 0.2
        if by <= 3:
            assert max(error["max"], error["avg"]) < error["none"]
    assert analysis.invariance_error(nn.GlobalAvgPool2d(), x, (3, -2)) < 1e-6  # sums in another order
    assert analysis.invariance_error(nn.GlobalMaxPool2d(), digits().x, (0, 4)) > 0  # what left the image


def test_invariance_error_by_hand():
    x = np.array([[[3.0, 4.0]]])
    assert analysis.invariance_error(lambda x: x, x, 1) == pytest.approx(math.sqrt(3**2 + 1) / 5)  # [0, 3] - [3, 4]


# ---------------------------------------------------------------- receptive fields


def sizes(rows):
    return [row.size for row in rows]


def test_receptive_fields_grow():
    rows = analysis.receptive_field([3, 3, 3], 7)
    assert sizes(rows) == [1, 3, 5, 7]
    assert [row.coverage for row in rows] == pytest.approx([1 / 49, 9 / 49, 25 / 49, 1])
    assert f"{100 * rows[0].coverage:.1f} %" == "2.0 %"
    assert sizes(analysis.receptive_field([3, (2, 2), 3, (2, 2), 3])) == [1, 3, 4, 8, 10, 18]


def test_a_real_network_sees_20_pixels_50_pixels_and_the_whole_image():
    rows = analysis.receptive_field(ALEXNET, 224)
    assert sizes(rows) == [1, 11, 19, 51, 67, 99, 131, 163, 195, 355]
    assert [row.jump for row in rows] == [1, 4, 8, 8, 16, 16, 16, 16, 32, 32]
    assert [row.coverage == 1 for row in rows] == [False] * 9 + [True]


def test_descriptions_and_layers_say_the_same():
    described = [
        {"name": "stem", "kernel_size": (7, 5), "stride": 2, "padding": (3, 2)},
        (3, (2, 1), 1),
        {"kernel_size": 3, "dilation": (1, 2), "padding": "same"},
        (2, 2),
    ]
    model = nn.Sequential(
        conv(1, 2, (7, 5), stride=2, padding=(3, 2)),
        nn.MaxPool2d(3, (2, 1), 1),
        conv(2, 2, 3, dilation=(1, 2), padding="same"),
        nn.AvgPool2d(2),
    )
    for size in (None, (40, 33)):
        ours, theirs = analysis.receptive_field(described, size), analysis.receptive_field(model, size)
        assert [row[2:] for row in ours] == [row[2:] for row in theirs]
        assert analysis.receptive_field(list(model), size)[-1][2:] == theirs[-1][2:]
    assert [row.name for row in ours] == ["input", "stem", "1", "2", "3"]
    assert ours[1].size == (7, 5)


def models():
    """Models of one channel whose last numbers are probed, by what is special about them."""
    padded = nn.Sequential(conv(2, 2, 3, padding=1), conv(2, 2, 3, padding=1))
    halved = conv(1, 2, 5, stride=2, padding=((1, 3), (2, 2)))
    odd = conv(1, 2, (5, 3), stride=(2, 3), padding=((2, 1), (0, 2)))
    plain = nn.Sequential(conv(1, 2, 3), nn.ReLU())
    return {
        "stack": [conv(1, 2, 3), nn.ReLU(), conv(2, 2, 3, padding=1), nn.MaxPool2d(2), conv(2, 1, 3)],
        "strides": [odd, conv(2, 1, 3, dilation=2)],
        "same": [conv(1, 2, 4, padding="same", stride=3), nn.AvgPool2d(3, 1, padding=1), conv(2, 1, 2)],
        "ceil": [nn.MaxPool2d(3, 2, ceil_mode=True), nn.GlobalMaxPool2d()],
        "nested": [plain, nn.Sequential(conv(2, 1, 3, stride=2))],
        "residual": [conv(1, 2, 3), Residual(padded), nn.ReLU()],
        "branches": [Residual(halved, conv(1, 2, 1, stride=2))],
        "dense": [conv(1, 2, 3), nn.Flatten(), nn.Dense(2 * 27 * 22, 3, dtype="float64", rng=0)],
        "global": [conv(1, 2, 3, padding=1), nn.GlobalAvgPool2d()],
        "1d": [nn.Conv1d(1, 1, 3, stride=2, dtype="float64", rng=0), nn.AvgPool1d(4, 3)],
    }


@pytest.mark.parametrize("name", models())
def test_receptive_fields_are_what_outputs_depend_on(name):
    """Probed with NaN: an output that sees a pixel which is none is none."""
    model = nn.Sequential(*models()[name])
    shape = (40,) if name == "1d" else (29, 24)
    row = analysis.receptive_field(model, shape)[-1]
    y = model(np.zeros((1, 1, *shape)))
    spatial = y.shape[2:] or (1,) * len(shape)
    middle = tuple(n // 2 for n in spatial)
    per_axis = [value if isinstance(value, tuple) else (value,) * len(shape) for value in row[2:5]]
    for axis, (n, size, jump, start) in enumerate(zip(shape, *per_axis, strict=True)):
        seen = []
        for pixel in range(n):
            x = np.zeros((1, 1, *shape))
            x[(0, 0, *(pixel if a == axis else slice(None) for a in range(len(shape))))] = np.nan
            output = model(x).reshape(1, -1, *spatial)[(0, slice(None), *middle)]
            seen += [pixel] * bool(np.isnan(output).any())
        first = start + middle[axis] * jump
        assert (seen[0], seen[-1]) == (max(first, 0), min(first + size, n) - 1)


def test_receptive_fields_without_the_size_of_the_image():
    rows = analysis.receptive_field(nn.Sequential(conv(1, 2, 3), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Dense(2, 3)))
    assert sizes(rows) == [1, 3, math.inf, math.inf, math.inf]
    assert {row.coverage for row in rows} == {None}
    rows = analysis.receptive_field(nn.Sequential(conv(1, 2, 3), nn.GlobalAvgPool2d()), (7, 9))
    assert (rows[-1].size, rows[-1].coverage) == ((7, 9), 1)


def test_a_layer_of_ones_own_says_what_it_sees():
    class Blur(Mine):
        kernel_size, padding = 3, 1

    assert sizes(analysis.receptive_field(nn.Sequential(conv(1, 1, 3), Blur()))) == [1, 3, 5]
    with pytest.raises(TypeError, match=r"layer 1 is Mine.*, which does not say what it sees: give it kernel_size"):
        analysis.receptive_field(nn.Sequential(conv(1, 1, 3), Mine()))


@pytest.mark.skipif(not hasattr(nn, "ConvTranspose2d"), reason="this version has no transposed convolution")
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 1), (3, 2, 0), (2, 2, 0), (5, 3, 2), (3, 1, 1)])
def test_receptive_fields_of_transposed_convolutions(kernel, stride, padding):
    model = nn.Sequential(nn.ConvTranspose2d(1, 1, kernel, stride, padding, rng=0, dtype="float64"))
    row = analysis.receptive_field(model, 9)[-1]
    seen = np.zeros((9, model(np.zeros((1, 1, 9, 9))).shape[3]), bool)
    for pixel in range(9):
        x = np.zeros((1, 1, 9, 9))
        x[..., pixel] = np.nan
        seen[pixel] = np.isnan(model(x)[0, 0, 4])
    assert row.size == seen.sum(0).max()
    assert row.jump * stride == 1
    inner = np.flatnonzero(seen.sum(0))[0]
    assert row.start <= np.flatnonzero(seen[:, inner])[0]


@pytest.mark.skipif(not hasattr(nn, "AdaptiveAvgPool2d"), reason="this version has no adaptive pooling")
def test_receptive_fields_of_adaptive_pooling():
    assert sizes(analysis.receptive_field([nn.AdaptiveAvgPool2d(1)], 9)) == [1, 9]
    assert sizes(analysis.receptive_field([3, nn.AdaptiveAvgPool2d(3)], 11)) == [1, 3, 5]


# ---------------------------------------------------------------- the matrix


@st.composite
def convolutions(draw):
    ndim, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    axes = st.lists(st.integers(1, 3), min_size=ndim, max_size=ndim).map(tuple)
    kernel, stride, dilation = draw(axes), draw(axes), draw(axes)
    pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=ndim, max_size=ndim).map(tuple)
    padding = draw(st.one_of(st.sampled_from(["same", "same_lower"]), pairs))
    size = tuple(d * (k - 1) + 1 + draw(st.integers(0, 2)) for k, d in zip(kernel, dilation, strict=True))
    weight = (groups * draw(st.integers(1, 2)), draw(st.integers(1, 2)), *kernel)
    return (weight[1] * groups, *size), weight, stride, padding, dilation, groups


@settings(max_examples=200)
@given(case=convolutions(), seed=st.integers(0, 1000), dtype=st.sampled_from(["float32", "float64"]))
def test_the_matrix_is_the_convolution_and_its_transpose_the_gradient(case, seed, dtype):
    pytest.importorskip("scipy", reason="conv_matrix makes a sparse matrix")
    shape, weight_shape, *windows = case
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=shape).astype(dtype), rng.normal(size=weight_shape).astype(dtype)
    ndim = x.ndim - 1
    with cnnkit.use_backend("numpy"):
        y = CONV[ndim](x, weight, None, *windows)
        g = rng.normal(size=y.shape).astype(dtype)
        grad = CONV_BACKWARD[ndim](g, x, weight, *windows, needs=("x",)).x
    matrix = analysis.conv_matrix(weight, shape, *windows)
    assert matrix.dtype == np.dtype(dtype)
    assert matrix.shape == (y.size, x.size)
    whole, terms = matrix.astype("float64"), weight.size
    assert_close(y.ravel(), whole @ x.ravel(), abs(whole) @ abs(x.ravel()), terms)
    assert_close(grad.ravel(), whole.T @ g.ravel(), abs(whole).T @ abs(g.ravel()), terms)


def test_the_matrix_of_the_lessons():
    pytest.importorskip("scipy", reason="conv_matrix makes a sparse matrix")
    weight = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    assert analysis.conv_matrix(weight, (1, 4, 4), padding=1).shape == (16, 16)
    matrix = analysis.conv_matrix(weight, (1, 6, 6))
    assert matrix.shape == (16, 36)
    assert set(np.diff(matrix.indptr)) == {9}
    assert (matrix.data.reshape(16, 9) == weight.ravel()).all()  # all rows the same nine
    x = np.random.default_rng(0).integers(-9, 9, (1, 6, 6)).astype(float)
    np.testing.assert_array_equal(
        matrix @ x.ravel(), cnnkit.conv2d(x, weight).ravel()
    )  # whole numbers: to the last bit
    assert analysis.conv_matrix(np.zeros((1, 1, 3, 3)), (1, 6, 6)).nnz == 144  # the pattern is that of the layer


def test_the_matrix_of_a_strange_weight():
    pytest.importorskip("scipy", reason="conv_matrix makes a sparse matrix")
    weight = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
    strange = np.asfortranarray(weight[::-1])[:, :, ::-1].astype(">f8")
    plain = np.ascontiguousarray(strange, float)
    expected, matrix = (analysis.conv_matrix(one, (3, 5, 5)) for one in (plain, strange))
    np.testing.assert_array_equal(matrix.toarray(), expected.toarray())


# ---------------------------------------------------------------- summary and feature maps


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, rng=0),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, rng=1), nn.ReLU()), nn.Conv2d(8, 8, 1, rng=2)),
        nn.GlobalAvgPool2d(),
        nn.Flatten(),
        nn.Dense(8, 10, rng=3),
    )


def test_a_summary_has_the_numbers_of_pencil_and_paper():
    table = analysis.summary(network(), (2, 3, 8, 8))
    assert [row.name for row in table.rows] == ["0", "1", "2", "3", "3.body.0", "3.body.1", "3.shortcut", "4", "5", "6"]
    assert [row.output_shape for row in table.rows[-3:]] == [(2, 8, 1, 1), (2, 8), (2, 10)]
    assert [row.parameters for row in table.rows] == [224, 0, 0, 656, 584, 0, 72, 0, 0, 90]
    products = [2 * 64 * 8 * 27, 2 * 16 * 8 * 72, 2 * 16 * 8 * 8, 2 * 80]
    assert [row.multiply_adds for row in table.rows] == [
        *(products[0], 0, 0, products[1] + products[2], products[1], 0, products[2]),
        *(0, 0, products[3]),
    ]
    numbers = [1024, 1024, 256, 256, 256, 256, 256, 16, 0, 20]  # Flatten makes no new ones
    assert [row.activation_bytes for row in table.rows] == [4 * n for n in numbers]
    assert [row.receptive_field for row in table.rows] == [3, 3, 4, 8, 8, 8, 4, 14, 14, 14]
    assert table.parameters == 224 + 584 + 72 + 90
    assert table.multiply_adds == sum(products)
    assert table.activation_bytes == 4 * (2 * 3 * 64 + sum(numbers))
    assert (table.parameter_bytes, table.state, table.dtype) == (4 * table.parameters, 0, "float32")


def test_a_summary_counts_no_products_of_normalisations():
    layers = nn.LayerNorm((4, 6, 6)), nn.LayerNorm(6), nn.GroupNorm(2, 4), nn.BatchNorm2d(4)
    assert [row.multiply_adds for row in analysis.summary(nn.Sequential(*layers), (2, 4, 6, 6)).rows] == [0, 0, 0, 0]


def test_a_summary_reads_like_a_table():
    text = str(network().summary((2, 3, 8, 8)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["layer", "output", "parameters", "adds", "memory", "pixels"]
    assert lines[3].split() == ["0", "Conv2d", "3x3", "2x8x8x8", "224", "27.6", "k", "4.1", "kB", "3x3"]
    assert lines[5].split() == ["2", "MaxPool2d", "2x2", "2x8x4x4", "1.02", "kB", "4x4"]
    assert lines[9].split() == ["3.shortcut", "Conv2d", "1x1", "2x8x4x4", "72", "2.05", "k", "1.02", "kB", "4x4"]
    assert lines[12].split()[-1] == "all"
    assert "parameters                    970   3.88 kB" in lines
    assert repr(network().summary((2, 3, 8, 8))) == text


@pytest.mark.parametrize(
    ("model", "shape", "parameters"),
    [
        (nn.Sequential(nn.Dense(784, 100), nn.ReLU(), nn.Dense(100, 10)), (32, 784), 79_510),
        (nn.Conv1d(1, 2, 3), (1, 20), 8),
        (nn.Sequential(nn.Conv3d(1, 2, 3, stride=(1, 2, 2))), (1, 1, 5, 7, 7), 56),
        (nn.Sequential(nn.Dropout(0.5), nn.Flatten()), (1, 2, 3), 0),
        (nn.ReLU(), (3,), 0),
    ],
)
def test_summaries_of_all_kinds(model, shape, parameters):
    table = analysis.summary(model, shape)
    assert table.parameters == parameters == sum(row.parameters for row in table.rows)
    assert str(table)


def test_a_summary_runs_layers_of_all_kinds_and_says_what_it_knows():
    class Block(nn.Layer):
        def __init__(self):
            self.first, self.others = nn.Conv2d(1, 2, 3), [nn.ReLU(), nn.Conv2d(2, 2, 3)]

        def __call__(self, x):
            return self.others[1](self.others[0](self.first(x)))

        def forward(self, x, rng=None):
            raise NotImplementedError

    rows = analysis.summary(nn.Sequential(nn.Conv2d(1, 1, 3), Mine(), Block(), nn.ReLU()), (1, 1, 9, 9)).rows
    assert [row.name for row in rows] == ["0", "1", "2", "2.first", "2.others.0", "2.others.1", "3"]
    assert [row.receptive_field for row in rows] == [3, 3, None, None, None, None, None]  # how it connects is not known
    assert [row.output_shape[2] for row in rows] == [7, 7, 3, 5, 5, 3, 3]
    assert [row.activation_bytes for row in rows] == [196, 196, 0, 200, 200, 72, 72]  # the block's is its last layer's


def test_a_layer_that_keeps_the_size_but_has_weights_may_see_more():
    class Smooth(Mine):
        def parameters(self):
            return {"weight": np.ones((1, 1, 3, 3), "f4")}

        def __call__(self, x):
            return cnnkit.conv2d(x, self.parameters()["weight"], padding=1)

    rows = analysis.summary(nn.Sequential(nn.Conv2d(1, 1, 3), Mine(), Smooth(), nn.ReLU()), (1, 1, 9, 9)).rows
    assert [row.receptive_field for row in rows] == [3, 3, None, None]


def test_looking_leaves_the_model_as_it_was():
    model = network()
    before = {name: array.copy() for name, array in model.parameters().items()}
    layers, kinds = list(model), [type(layer) for layer in model]
    analysis.summary(model, (1, 3, 8, 8))
    analysis.feature_maps(model, np.ones((1, 3, 8, 8), "float32"))
    assert all(one is other for one, other in zip(model, layers, strict=True))
    assert [type(layer) for layer in model] == kinds
    assert all((model.parameters()[name] == array).all() for name, array in before.items())


def test_feature_maps_are_what_the_layers_make(backend):
    model = network()
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype("float32")
    maps = {one.name: one.output for one in analysis.feature_maps(model, x)}
    assert list(maps) == ["0", "1", "2", "3.body.0", "3.body.1", "3.shortcut", "3", "4", "5", "6"]
    np.testing.assert_array_equal(maps["1"], model[:2](x))
    np.testing.assert_array_equal(maps["3"], maps["3.body.1"] + maps["3.shortcut"])
    np.testing.assert_array_equal(maps["6"], model(x))
    assert analysis.feature_maps(model[0], x)[0].layer is model[0]
    block = analysis.feature_maps(model[3], maps["2"])
    assert [one.name for one in block] == ["body.0", "body.1", "shortcut", ""]
    np.testing.assert_array_equal(block[-1].output, maps["3"])


def test_the_hierarchy_of_a_trained_network():
    """From layer to layer fewer places and more of the image in each; trained features tell the classes apart."""
    train, test = split(digits())
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, rng=1), nn.ReLU()),
        *(nn.Flatten(), nn.Dense(64, 10, rng=2)),
    )
    with cnnkit.use_backend("numpy"):
        nn.fit(model, train, epochs=3, batch_size=32, optimizer=optim.Adam(0.005), progress=False)
        maps = analysis.feature_maps(model, test.x)
    assert [one.output.shape[2] for one in maps[:5]] == [8, 8, 4, 2, 2]
    assert sizes(analysis.receptive_field(model, 8)) == [1, 3, 3, 4, 8, 8, 8, 10]

    def separation(output):
        """Distances between the classes' means against those within classes."""
        flat = output.reshape(len(output), -1)
        means = np.array([flat[test.labels == label].mean(0) for label in range(10)])
        return means.var(0).sum() / (flat - means[test.labels]).var(0).sum()

    assert separation(maps[-1].output) > 1.5 * separation(test.x)


def test_where_convolution_is_wrong():
    with cnnkit.use_backend("numpy"):
        position, distance, ordered, shuffled = races()
    for race in (position, distance):
        assert race.dense > 0.95
        assert race.cnn < 0.65
    assert shuffled.dense > shuffled.cnn + 0.02
    assert shuffled.cnn < ordered.cnn - 0.02
    assert min(ordered.cnn, ordered.dense) > 0.9  # small images are fine with dense layers


# ---------------------------------------------------------------- mistakes


SPIKE = np.ones((1, 1, 4, 4))
KERNEL = np.ones((1, 1, 3, 3))
MODEL = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
MISTAKES = [
    ("dense_parameters", (0, 5), ValueError, "in_features is 0, but must be at least 1"),
    ("dense_parameters", (5, 2.0), TypeError, "out_features is 2.0, but an int is needed"),
    ("conv_parameters", (3, 8, 3, 1), TypeError, "conv_parameters() takes 3 positional arguments but 4 were given"),
    (
        "conv_parameters",
        (3, 8, (3,) * 4),
        ValueError,
        "kernel_size is (3, 3, 3, 3), but an int or one to three ints are needed",
    ),
    ("conv_parameters", (3, 8, 0), ValueError, "kernel_size is 0, but must be at least 1"),
    (
        "parameter_savings",
        ((5,), 1, 1, 3),
        ValueError,
        "input_shape is (5,), but (channels, *sizes) of one to three axes is needed",
    ),
    ("training_examples_needed", (0,), ValueError, "parameters is 0, but must be at least 1"),
    (
        "training_examples_needed",
        (9, (10, 5)),
        ValueError,
        "per_parameter is (10, 5), but a (least, most) pair of positive numbers is needed",
    ),
    ("possible_images", (0,), ValueError, "pixels is 0, but must be at least 1"),
    ("sobel", (2,), ValueError, "axis is 2, but x has 2 axes"),
    (
        "neighbour_correlation",
        ([[1.0]],),
        TypeError,
        "image is a list, but a numpy or cupy array of real numbers is needed",
    ),
    (
        "neighbour_correlation",
        (np.ones(4),),
        ValueError,
        "image has shape (4,), but (H, W) is needed, or (..., H, W) of several",
    ),
    (
        "neighbour_correlation",
        (np.ones((4, 9)), 4),
        ValueError,
        "image has shape (4, 9), too small for pixels that are 4 apart",
    ),
    ("equivariance_error", (3, SPIKE, 1), TypeError, "fn is 3, but a function or a layer is needed"),
    ("invariance_error", (None, SPIKE, 1), TypeError, "fn is None, but a function or a layer is needed"),
    ("equivariance_error", (nn.ReLU(), [1.0], 1), TypeError, "x is a list, but a numpy array is needed"),
    (
        "equivariance_error",
        (nn.ReLU(), np.ones((4, 4)), 1),
        ValueError,
        "x has shape (4, 4), but (N, C, *sizes) is needed",
    ),
    ("equivariance_error", (nn.ReLU(), SPIKE, (1, 2, 3)), ValueError, "shift is (1, 2, 3), but needs an int or 2 ints"),
    (
        "equivariance_error",
        (nn.ReLU(), SPIKE, 4),
        ValueError,
        "the answer is 4 long, but with shift 4 and border 0 nothing of it is left",
    ),
    (
        "equivariance_error",
        (nn.Flatten(), SPIKE, 1),
        ValueError,
        "fn makes (1, 16) of (1, 1, 4, 4), but an answer that can move needs 4 axes",
    ),
    ("invariance_error", (nn.Flatten(), SPIKE, 0.5), TypeError, "shift is 0.5, but an int is needed"),
    ("changed_positions", (3, 1), TypeError, "image is a int, but a numpy array is needed"),
    (
        "slide",
        (np.ones((2, 2)), np.ones((3, 3))),
        ValueError,
        "a window of 3 with dilation 1 spans 3 along H, but x has 2 there, 2 with padding",
    ),
    (
        "slide",
        (np.ones((1, 2, 2)), np.ones((3, 3))),
        ValueError,
        "image has shape (1, 2, 2), but slide needs one channel of two axes",
    ),
    ("slide", (np.ones((2, 2)), [[1]]), TypeError, "kernel is a list, but a numpy array is needed"),
    ("receptive_field", (3,), TypeError, "layers is 3, but a model or a list of layers is needed"),
    ("receptive_field", (["conv"],), TypeError, "kernel_size is 'conv', but an int is needed"),
    (
        "receptive_field",
        ([(3, 1, 0, 1, 1)],),
        TypeError,
        "layer 0 is (3, 1, 0, 1, 1), but a tuple (kernel_size, stride, padding, dilation) is needed",
    ),
    (
        "receptive_field",
        ([{"kernel": 3}],),
        TypeError,
        "layer 0 has kernel, but a description has name, kernel_size, stride, padding, dilation",
    ),
    (
        "receptive_field",
        ([{"stride": 3}],),
        TypeError,
        "layer 0 has no kernel_size, but a description has name, kernel_size, stride, padding, dilation",
    ),
    (
        "receptive_field",
        ([3, 3], 4),
        ValueError,
        "a window of 3 with dilation 1 spans 3 along H, but x has 2 there, 2 with padding",
    ),
    (
        "receptive_field",
        ([(3, 2, "same")],),
        ValueError,
        "layer 0 has padding='same' and a stride, so input_size is needed",
    ),
    (
        "conv_matrix",
        ([[1.0]], (1, 4, 4)),
        TypeError,
        "weight is a list, but an array is needed: write numpy.asarray(weight, dtype='float32')",
    ),
    (
        "conv_matrix",
        (np.ones((3, 3)), (1, 4, 4)),
        ValueError,
        "weight has shape (3, 3), but (C_out, C_in // groups, *kernel) is needed",
    ),
    (
        "conv_matrix",
        (KERNEL, (1, 1, 4, 4)),
        ValueError,
        "input_shape is (1, 1, 4, 4), but weight of shape (1, 1, 3, 3) needs (C, H, W): one image",
    ),
    (
        "conv_matrix",
        (KERNEL, (2, 4, 4)),
        ValueError,
        "x has 2 channels, but weight of shape (1, 1, 3, 3) with groups=1 needs 1",
    ),
    ("conv_matrix", (KERNEL, (1, 0, 4)), ValueError, "input_shape is 0, but must be at least 1"),
    (
        "summary",
        (nn.ReLU, (1, 2)),
        TypeError,
        "model is <class 'cnnkit.nn.activation.ReLU'>, but a layer is needed, such as nn.Sequential(...)",
    ),
    ("summary", (nn.ReLU(), 5), TypeError, "input_shape is 5, but a tuple such as (1, 3, 32, 32) is needed"),
    (
        "summary",
        (MODEL, (1, 3, 8, 8)),
        ValueError,
        "x has 3 channels, but weight of shape (2, 1, 3, 3) with groups=1 needs 1",
    ),
    (
        "feature_maps",
        ("model", SPIKE),
        TypeError,
        "model is 'model', but a layer is needed, such as nn.Sequential(...)",
    ),
    (
        "plot_feature_maps",
        (MODEL, np.ones((1, 1, 4, 4), "f4"), "7"),
        ValueError,
        "layer is '7', but the layers are 0, 1",
    ),
    (
        "plot_feature_maps",
        (MODEL, np.ones((1, 1, 4, 4), "f4"), 1),
        ValueError,
        "layer 1 makes (1, 8), but only (N, C, H, W) can be drawn",
    ),
    (
        "plot_receptive_field",
        ([3], (5, 5, 5)),
        ValueError,
        "input_size is (5, 5, 5), but only images of two axes are drawn",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "error", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence_with_the_numbers(name, arguments, error, sentence):
    if "matrix" in name:
        pytest.importorskip("scipy", reason="conv_matrix makes a sparse matrix")
    with pytest.raises(error) as caught:
        getattr(analysis, name)(*arguments)
    assert str(caught.value) == sentence


def test_a_step_that_there_is_not():
    with pytest.raises(ValueError, match=r"^step is 9, but there are 9$"):
        analysis.plot_slide(small_image(), analysis.sobel(1), step=9)
    with pytest.raises(ValueError, match=r"^step is -10, but must be at least -9$"):
        analysis.plot_slide(small_image(), analysis.sobel(1), step=-10)


def test_groups_must_divide():
    with pytest.raises(ValueError, match=r"^out_channels is 8, which groups=3 does not divide$"):
        analysis.conv_parameters(3, 8, 3, groups=3)


def test_a_summary_says_which_layer_does_not_fit():
    with pytest.raises(ValueError, match="x of shape") as caught:
        analysis.summary(nn.Sequential(nn.Flatten(), nn.Dense(7, 2)), (1, 1, 3, 3))
    assert caught.value.__notes__ == ["in layer 1, Dense(7, 2), given x of shape (1, 9)"]


# ---------------------------------------------------------------- plots, and what is not installed


PLOTS = {
    "plot_parameters": ({"dense": 100_352, "conv": 144},),
    "plot_training_examples": ({"small": 1000, "large": 10**9},),
    "plot_neighbour_correlation": ({"photograph": photograph()}, (1, 2, 4)),
    "plot_equivariance_error": ({"relu": nn.ReLU()}, np.ones((1, 1, 9, 9)), range(3)),
    "plot_invariance_error": ({"relu": nn.ReLU()}, np.ones((1, 1, 9, 9)), range(3)),
    "plot_receptive_field": (network(), 16),
    "plot_conv_matrix": (KERNEL, (1, 6, 6)),
    "plot_sobel": (photograph(), 0),
    "plot_feature_maps": (MODEL, np.ones((1, 1, 9, 9), "f4"), "0"),
    "plot_summary": (network(), (1, 3, 16, 16)),
    "plot_slide": (small_image(), np.ones((2, 3)), 2, 1),
}


def given_arrays(name):
    return [one for one in PLOTS[name] if isinstance(one, np.ndarray)]


def test_every_plot_is_tried():
    assert set(PLOTS) == {name for name in analysis.__all__ if name.startswith("plot_")}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_draws_into_the_axes_that_it_is_given_and_returns_them(name):
    figures = pytest.importorskip("matplotlib.figure", reason="plots are drawn by matplotlib")
    if "matrix" in name:
        pytest.importorskip("scipy", reason="conv_matrix makes a sparse matrix")
    figure = figures.Figure()
    ax = figure.add_subplot()
    arrays = [one.copy() for one in given_arrays(name)]
    assert getattr(analysis, name)(*PLOTS[name], ax=ax) is ax
    assert ax.has_data() or ax.patches or ax.texts
    figure.canvas.draw()
    assert all(
        (one == other).all()
        for one, other in zip(arrays, [a for a in PLOTS[name] if isinstance(a, np.ndarray)], strict=True)
    )


def test_plots_show_the_numbers(monkeypatch):
    figures = pytest.importorskip("matplotlib.figure", reason="plots are drawn by matplotlib")

    def ax():
        return figures.Figure().add_subplot()

    bars = analysis.plot_parameters({"dense": 100_352, "conv": 144}, highlight=["conv"], ax=ax())
    assert [text.get_text() for text in bars.texts] == ["100,352", "144"]
    assert [patch.get_width() for patch in bars.patches] == [100_352, 144]
    lines = analysis.plot_neighbour_correlation({"photo": photograph()}, (1, 8), ax=ax()).lines
    assert lines[0].get_ydata()[1] == analysis.neighbour_correlation(photograph(), 8)
    squares = analysis.plot_receptive_field([3, 3, 3], 7, ax=ax()).patches
    assert [patch.get_width() for patch in squares] == [7, 5, 3, 1]
    step = analysis.plot_slide(small_image(), analysis.sobel(1), step=0, ax=ax())
    assert step.texts[-1].get_text().endswith("= 2")
    maps = analysis.plot_feature_maps(MODEL, np.ones((1, 1, 6, 6), "f4"), 0, ax=ax())
    assert maps.images[0].get_array().shape == (4, 4 + 1 + 4)  # two channels and a gap


@pytest.mark.parametrize("missing", ["matplotlib", "scipy"])
def test_what_is_missing_is_told_with_what_to_install(missing, tmp_path):
    """In a process of its own, for what is imported stays imported."""
    call = {
        "matplotlib": "analysis.plot_parameters({'a': 1})",
        "scipy": "analysis.conv_matrix(np.ones((1, 1, 3)), (1, 5))",
    }[missing]
    code = f"import sys; sys.modules[{missing!r}] = None; import numpy as np; from cnnkit import analysis; {call}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    extra = {"matplotlib": "plot", "scipy": "analysis"}[missing]
    assert run.stderr.splitlines()[-1].startswith("ImportError: ")
    assert f'pip install "cnnkit[{extra}]"' in run.stderr


# ---------------------------------------------------------------- what is public


def test_public_names_are_there_and_documented():
    for name in analysis.__all__:
        value = getattr(analysis, name)
        text = inspect.getdoc(value)
        assert text, name
        if inspect.isfunction(value):
            assert "Examples\n--------\n>>> " in text, name
            assert "Parameters\n----------" in text
            assert "Raises\n------" in text
            assert "Returns\n-------" in text
            for parameter in inspect.signature(value).parameters:
                assert parameter in text, (name, parameter)


@pytest.mark.parametrize("name", [name for name in analysis.__all__ if name.startswith("plot_")])
def test_every_plot_takes_axes(name):
    parameter = inspect.signature(getattr(analysis, name)).parameters["ax"]
    assert (parameter.kind, parameter.default) == (inspect.Parameter.KEYWORD_ONLY, None)


def test_the_photograph():
    photo = photograph()
    assert (photo.shape, photo.dtype) == ((128, 128), np.float32)
    assert 0 <= photo.min() < 0.05
    assert 0.95 < photo.max() <= 1
    assert photograph(dtype="float64").dtype == np.float64
    with pytest.raises(TypeError, match=r"^dtype is int64, but must be float16, float32 or float64$"):
        photograph(dtype="int64")
    assert shift(photo[None, None], (0, 1)).shape == (1, 1, 128, 128)
