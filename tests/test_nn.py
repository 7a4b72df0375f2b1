"""Layers: shapes, parameters, and gradients against differences and against PyTorch."""

import copy

import numpy as np
import pytest

from cnnkit import nn

F64 = {"dtype": "float64", "rng": 0}

# each layer with the shape of an x that it takes, and of the y that it makes
LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, ((2, 1),), 2, 2, **F64), (2, 4, 9), (2, 6, 4)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1, **F64), (2, 2, 5, 4), (2, 3, 5, 4)),
    "conv2d unbatched": (lambda: nn.Conv2d(2, 3, (3, 2), **F64), (2, 5, 4), (3, 3, 3)),
    "conv2d no bias": (lambda: nn.Conv2d(2, 3, 3, padding="same", bias=False, **F64), (2, 2, 5, 4), (2, 3, 5, 4)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, stride=(1, 2, 2), **F64), (2, 1, 3, 4, 4), (2, 2, 2, 2, 2)),
    "conv_transpose1d": (
        lambda: nn.ConvTranspose1d(4, 6, 3, 2, ((2, 1),), 1, 2, True, 2, **F64),
        (2, 4, 5),
        (2, 6, 11),
    ),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(3, 2, 3, 2, "same", **F64), (2, 3, 3, 2), (2, 2, 6, 4)),
    "conv_transpose2d unbatched": (lambda: nn.ConvTranspose2d(3, 2, (3, 2), bias=False, **F64), (3, 3, 2), (2, 5, 3)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(1, 2, 2, (1, 2, 2), **F64), (2, 1, 2, 2, 3), (2, 2, 3, 4, 6)),
    "dense": (lambda: nn.Dense(4, 3, **F64), (5, 4), (5, 3)),
    "dense no bias": (lambda: nn.Dense(4, 3, bias=False, **F64), (2, 5, 4), (2, 5, 3)),
    "max_pool1d": (lambda: nn.MaxPool1d(3, 2, 1), (2, 3, 7), (2, 3, 4)),
    "max_pool2d": (lambda: nn.MaxPool2d(2, ceil_mode=True), (2, 2, 5, 4), (2, 2, 3, 2)),
    "max_pool3d": (lambda: nn.MaxPool3d(2, 1, dilation=2), (1, 2, 4, 4, 3), (1, 2, 2, 2, 1)),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 2, 1, count_include_pad=False), (2, 3, 7), (2, 3, 4)),
    "avg_pool2d": (lambda: nn.AvgPool2d((2, 3), divisor_override=4), (2, 2, 5, 6), (2, 2, 2, 2)),
    "avg_pool3d": (lambda: nn.AvgPool3d(2, 1), (1, 2, 3, 3, 2), (1, 2, 2, 2, 1)),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 3, 7), (2, 3, 3)),
    "adaptive_avg_pool2d": (lambda: nn.AdaptiveAvgPool2d((None, 2)), (2, 2, 4, 5), (2, 2, 4, 2)),
    "adaptive_avg_pool3d": (lambda: nn.AdaptiveAvgPool3d((2, None, 1)), (1, 2, 3, 3, 2), (1, 2, 2, 3, 1)),
    "adaptive_max_pool1d": (lambda: nn.AdaptiveMaxPool1d(3), (2, 3, 7), (2, 3, 3)),
    "adaptive_max_pool2d": (lambda: nn.AdaptiveMaxPool2d((None, 2)), (2, 2, 4, 5), (2, 2, 4, 2)),
    "adaptive_max_pool3d": (lambda: nn.AdaptiveMaxPool3d(2), (1, 2, 3, 3, 2), (1, 2, 2, 2, 2)),
    "lp_pool1d": (lambda: nn.LPPool1d(2, 3, 2, ((1, 0),)), (2, 3, 8), (2, 3, 4)),
    "lp_pool2d": (lambda: nn.LPPool2d(4, (2, 3), 1, "same", 2), (2, 2, 5, 6), (2, 2, 5, 6)),
    "lp_pool3d": (lambda: nn.LPPool3d(2.0, 2, ceil_mode=True), (1, 2, 3, 3, 2), (1, 2, 2, 2, 1)),
    "global avg": (nn.GlobalAvgPool2d, (2, 3, 4, 5), (2, 3, 1, 1)),
    "global max": (nn.GlobalMaxPool2d, (2, 3, 4, 5), (2, 3, 1, 1)),
    "global avg unbatched": (nn.GlobalAvgPool2d, (3, 4, 5), (3, 1, 1)),
    "relu": (nn.ReLU, (3, 4), (3, 4)),
    "leaky relu": (lambda: nn.LeakyReLU(0.2), (3, 4), (3, 4)),
    "elu": (lambda: nn.ELU(1.5), (3, 4), (3, 4)),
    "gelu": (nn.GELU, (3, 4), (3, 4)),
    "gelu tanh": (lambda: nn.GELU("tanh"), (3, 4), (3, 4)),
    "silu": (nn.SiLU, (3, 4), (3, 4)),
    "sigmoid": (nn.Sigmoid, (3, 4), (3, 4)),
    "tanh": (nn.Tanh, (3, 4), (3, 4)),
    "softmax": (lambda: nn.Softmax(1), (3, 4, 2), (3, 4, 2)),
    "log softmax": (nn.LogSoftmax, (3, 4), (3, 4)),
    "flatten": (nn.Flatten, (2, 3, 4, 5), (2, 60)),
    "dropout": (lambda: nn.Dropout(0.3), (3, 4), (3, 4)),
    "batch_norm1d": (lambda: nn.BatchNorm1d(3, dtype="float64"), (4, 3), (4, 3)),
    "batch_norm1d lines": (lambda: nn.BatchNorm1d(3, momentum=0.5, dtype="float64"), (2, 3, 4), (2, 3, 4)),
    "batch_norm2d": (lambda: nn.BatchNorm2d(3, 1e-3, affine=False, dtype="float64"), (2, 3, 4, 3), (2, 3, 4, 3)),
    "batch_norm3d": (lambda: nn.BatchNorm3d(2, dtype="float64"), (2, 2, 2, 3, 2), (2, 2, 2, 3, 2)),
    "layer_norm": (lambda: nn.LayerNorm((2, 3), dtype="float64"), (4, 2, 3), (4, 2, 3)),
    "layer_norm plain": (lambda: nn.LayerNorm(5, elementwise_affine=False, dtype="float64"), (4, 5), (4, 5)),
    "group_norm": (lambda: nn.GroupNorm(2, 4, 1e-3, dtype="float64"), (2, 4, 3), (2, 4, 3)),
    "sequential": (lambda: small_model("float64"), (3, 2, 8, 7), (3, 4)),
    "residual": (lambda: nn.Residual(nn.Conv2d(2, 2, 3, padding=1, **F64)), (2, 2, 5, 4), (2, 2, 5, 4)),
    "residual shortcut": (lambda: residual("float64"), (2, 2, 5, 4), (2, 3, 3, 2)),
    "residual of nothing": (lambda: nn.Residual(nn.Sequential(), nn.Sequential()), (3, 4), (3, 4)),
}
EVERY_LAYER = pytest.mark.parametrize(("make", "x_shape", "y_shape"), LAYERS.values(), ids=LAYERS)
BATCHED = {name: row for name, row in LAYERS.items() if "unbatched" not in name and "batch_norm" not in name}


def small_model(dtype):
    settings = {"dtype": dtype, "rng": np.random.default_rng(3)}
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, **settings),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(3, 5, (3, 2), stride=(1, 2), bias=False, **settings), nn.ReLU()),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Dense(10, 4, **settings),
    )


def residual(dtype):
    """A block within a block; its body ends in a ReLU, whose pullback keeps what it made."""
    settings = {"dtype": dtype, "rng": np.random.default_rng(4)}
    inner = nn.Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, **settings), nn.ReLU()))
    body = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1, **settings), inner, nn.Dropout(0.2))
    return nn.Residual(body, nn.Conv2d(2, 3, 1, 2, bias=False, **settings))


def normal(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def differences(f, array, step=1e-6):
    """The gradient of f() with respect to `array`, element by element (central differences)."""
    gradient = np.empty_like(array)
    for i in np.ndindex(array.shape):
        here = array[i]
        array[i] = here + step
        above = f()
        array[i] = here - step
        gradient[i] = (above - f()) / (2 * step)
        array[i] = here
    return gradient


@EVERY_LAYER
def test_gradients_against_differences(make, x_shape, y_shape):
    layer, x, grad_y = make(), normal(x_shape), normal(y_shape, seed=2)

    def loss():  # the same generator each time, so that dropout drops the same
        return float((layer.forward(x, np.random.default_rng(5))[0] * grad_y).sum())

    grad_x, grads = layer.forward(x, np.random.default_rng(5))[1](grad_y)
    np.testing.assert_allclose(grad_x, differences(loss, x), rtol=1e-6, atol=1e-7)
    for name, parameter in layer.parameters().items():
        np.testing.assert_allclose(grads[name], differences(loss, parameter), rtol=1e-6, atol=1e-7)


@EVERY_LAYER
def test_shapes_and_names(make, x_shape, y_shape):
    layer, x = make(), normal(x_shape)
    y, pullback = layer.forward(x, np.random.default_rng(0))
    assert layer(x).shape == y.shape == y_shape
    grad_x, grads = pullback(np.ones(y_shape))
    assert grad_x.shape == x_shape
    assert list(grads) == list(layer.parameters())
    assert {name: g.shape for name, g in grads.items()} == {name: p.shape for name, p in layer.parameters().items()}


@pytest.mark.parametrize(("make", "x_shape", "y_shape"), BATCHED.values(), ids=BATCHED)
def test_no_images_at_all(make, x_shape, y_shape):
    layer = make()
    y, pullback = layer.forward(np.empty((0, *x_shape[1:])), np.random.default_rng(0))
    assert y.shape == (0, *y_shape[1:])
    grad_x, grads = pullback(y)
    assert grad_x.shape == (0, *x_shape[1:])
    assert all((grad == 0).all() for grad in grads.values())


@EVERY_LAYER
def test_repr_makes_it_again(make, x_shape, y_shape):
    layer = make()
    again = eval(repr(layer), vars(nn))
    assert repr(again) == repr(layer)
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(again(normal(x_shape)), layer(normal(x_shape)))


@EVERY_LAYER
def test_deep_copies_are_apart(make, x_shape, y_shape):
    layer = make()
    twin = copy.deepcopy(layer)
    for array in layer.parameters().values():
        array += 1
    for name, array in twin.parameters().items():
        np.testing.assert_array_equal(array + 1, layer.parameters()[name])


@EVERY_LAYER
def test_nothing_is_remembered_between_calls(make, x_shape, y_shape):
    """Pullbacks may be called late, in any order and twice."""
    layer, first, second = make(), normal(x_shape, 1), normal(x_shape, 2)
    before = dict(vars(layer))
    _, pullback = layer.forward(first, np.random.default_rng(5))
    expected = pullback(np.ones(y_shape))
    layer.forward(second, np.random.default_rng(6))[1](np.ones(y_shape))
    layer(second)
    grad_x, grads = pullback(np.ones(y_shape))
    np.testing.assert_array_equal(grad_x, expected[0])
    for name, grad in grads.items():
        np.testing.assert_array_equal(grad, expected[1][name])
    assert vars(layer) == before


def test_against_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the peer")
    model = nn.Sequential(*(layer for layer in small_model("float64") if not isinstance(layer, nn.Dropout)))
    parts = torch.nn
    inner = parts.Sequential(parts.Conv2d(3, 5, (3, 2), stride=(1, 2), bias=False), parts.ReLU())
    first = parts.Conv2d(2, 3, 3, padding=1)
    peer = parts.Sequential(first, parts.ReLU(), parts.MaxPool2d(2), inner, parts.Flatten(), parts.Linear(10, 4))
    peer = peer.double()
    state = {name: torch.tensor(array) for name, array in model.state_dict().items()}
    peer.load_state_dict(state)  # strict: the names are PyTorch's

    x, grad_y = normal((3, 2, 8, 7)), normal((3, 4), seed=2)
    x_tensor = torch.tensor(x, requires_grad=True)
    y_tensor = peer(x_tensor)
    y_tensor.backward(torch.tensor(grad_y))
    y, pullback = model.forward(x)
    grad_x, grads = pullback(grad_y)
    np.testing.assert_allclose(y, y_tensor.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(grad_x, x_tensor.grad.numpy(), rtol=1e-12, atol=1e-12)
    for name, parameter in peer.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (nn.Conv2d(1, 8, 3), 80),
        (nn.Conv2d(3, 32, 3, bias=False), 864),
        (nn.Conv2d(3, 64, 5), 4864),
        (nn.Conv2d(8, 8, 3, groups=8), 80),
        (nn.Conv1d(2, 4, 5), 44),
        (nn.Conv3d(1, 2, 3), 56),
        (nn.ConvTranspose2d(8, 6, 3, groups=2), 8 * 3 * 9 + 6),
        (nn.Dense(784, 100), 78500),
        (nn.Dense(784, 128, bias=False), 100352),
        (nn.MaxPool2d(2), 0),
        (small_model("float32"), 57 + 90 + 44),
    ],
    ids=repr,
)
def test_number_of_parameters(layer, count):
    assert sum(array.size for array in layer.parameters().values()) == count


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Conv2d(3, 8, (3, 3), 1, ((1, 1), (1, 1))), "Conv2d(3, 8, 3, padding=1)"),
        (nn.Conv2d(3, 8, [3, 1], padding=[1, 0]), "Conv2d(3, 8, (3, 1), padding=(1, 0))"),
        (nn.Conv2d(3, 8, 3, padding=((1, 2), (1, 2))), "Conv2d(3, 8, 3, padding=((1, 2), (1, 2)))"),
        (nn.Conv1d(3, 8, np.int64(3), padding=((1, 2),)), "Conv1d(3, 8, 3, padding=((1, 2),))"),
        (nn.Conv2d(2, 4, 3, 2, "same", 2), "Conv2d(2, 4, 3, stride=2, padding='same', dilation=2)"),
        (nn.Conv3d(2, 4, 3, groups=2, bias=False), "Conv3d(2, 4, 3, groups=2, bias=False)"),
        (
            nn.ConvTranspose2d(4, 2, 3, (2, 2), (1, 1), [1, 0], 2, False, 1),
            "ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=(1, 0), groups=2, bias=False)",
        ),
        (nn.Dense(3, 2, dtype=np.float64), "Dense(3, 2, dtype='float64')"),
        (nn.MaxPool2d(2, (2, 1)), "MaxPool2d(2, stride=(2, 1))"),
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), "Sequential(Flatten(), Dropout(0.5))"),
        (nn.Residual(nn.Sequential(nn.ReLU())), "Residual(Sequential(ReLU()))"),
        (nn.Residual(nn.ReLU(), nn.Dense(2, 2)), "Residual(ReLU(), shortcut=Dense(2, 2))"),
    ],
    ids=str,
)
def test_repr(layer, text):
    assert repr(layer) == text


def test_first_weights():
    """He initialisation: mean 0, variance 2 / fan_in, within five standard errors; biases zero."""
    layer = nn.Conv2d(64, 128, 3, groups=2, rng=0)
    count, variance = layer.weight.size, 2 / (32 * 9)
    assert abs(layer.weight.mean()) < 5 * (variance / count) ** 0.5
    assert abs(layer.weight.var() - variance) < 5 * variance * (2 / count) ** 0.5
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    assert not layer.bias.any()


def test_first_weights_follow_the_seed_in_either_dtype():
    single, double = nn.Dense(30, 20, rng=7), nn.Dense(30, 20, rng=np.random.default_rng(7), dtype="float64")
    np.testing.assert_array_equal(single.weight, double.weight.astype("float32"))
    assert (single.weight != nn.Dense(30, 20, rng=8).weight).any()


def test_float32_stays_float32():
    model = small_model("float32")
    y, pullback = model.forward(normal((3, 2, 8, 7)).astype("float32"), np.random.default_rng(0))
    grad_x, grads = pullback(np.ones_like(y))
    assert {y.dtype, grad_x.dtype, *(grad.dtype for grad in grads.values())} == {np.dtype("float32")}


def test_without_needs_x_the_parameters_gradients_are_the_same():
    flat = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Dense(112, 4, **F64)))
    for model in (small_model("float64"), flat):
        y, pullback = model.forward(normal((3, 2, 8, 7)), np.random.default_rng(0))
        _, expected = pullback(np.ones_like(y))
        grad_x, grads = pullback(np.ones_like(y), needs_x=False)
        assert grad_x is None
        assert list(grads) == list(expected)
        for name, grad in grads.items():
            np.testing.assert_array_equal(grad, expected[name])


def test_dropout():
    x = np.ones((100, 100), dtype="float32")
    layer = nn.Dropout(0.25)
    y, pullback = layer.forward(x, np.random.default_rng(0))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 5 * (0.25 * 0.75 / y.size) ** 0.5
    np.testing.assert_array_equal(pullback(x)[0], y)  # what was dropped has no gradient
    assert y.dtype == np.float32
    assert layer(x) is x


def test_sequential_is_a_sequence():
    model = small_model("float32")
    assert len(model) == len(list(model)) == 7
    assert isinstance(model[-1], nn.Dense)
    assert list(model[2:].parameters()) == ["1.0.weight", "4.weight", "4.bias"]
    assert model[2:].parameters()["4.bias"] is model.parameters()["6.bias"]
    assert list(model.parameters()) == ["0.weight", "0.bias", "3.0.weight", "6.weight", "6.bias"]


def test_parameters_are_the_live_arrays():
    model = nn.Sequential(nn.Dense(1, 1, **F64))
    model.parameters()["0.bias"][...] = 5
    assert model(np.zeros((1, 1))) == 5


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"2.bias": None}, ValueError, r"state and model must have the same names, but differ in 2\.bias"),
        ({"extra": np.zeros(3)}, ValueError, r"must have the same names, but differ in extra"),
        ({"2.bias": np.zeros(3)}, ValueError, r"'2\.bias' has shape \(3,\) in state, but \(2,\) in the model"),
        ({"2.bias": np.zeros(2, "float32")}, TypeError, r"'2\.bias' is float32 in state, but float64 in the model"),
        ({"2.bias": [0.0, 0.0]}, TypeError, r"'2\.bias' is a list in state, but a numpy or cupy array is needed"),
    ],
)
def test_state_that_does_not_fit_changes_nothing(change, error, sentence):
    model = nn.Sequential(nn.Dense(3, 3, **F64), nn.ReLU(), nn.Dense(3, 2, **F64))
    before = copy.deepcopy(model.state_dict())
    state = {name: array + 1 for name, array in before.items()} | change
    with pytest.raises(error, match=sentence):
        model.load_state_dict({name: array for name, array in state.items() if array is not None})
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: nn.Conv2d(0, 3, 3), ValueError, r"in_channels is 0, but must be at least 1"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, r"in_channels is 3, which groups=2 does not divide"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, r"out_channels is 3, which groups=2 does not divide"),
        (lambda: nn.Conv2d(3, 4, 2.5), TypeError, r"kernel_size is 2\.5, but an int is needed"),
        (lambda: nn.Conv2d(3, 4, 3, stride=0), ValueError, r"stride is 0, but must be at least 1"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), ValueError, r"padding is -1, but must be at least 0"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), ValueError, r"padding is 'full', but the known names are"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), ValueError, r"kernel_size is \(3, 3, 3\), but needs an int or 2 ints"),
        (lambda: nn.Conv2d(3, 4, 3, bias=1), TypeError, r"bias is 1, but True or False is needed"),
        (lambda: nn.Dense(3, 4, dtype="float16"), TypeError, r"dtype is float16, but a layer needs float32 or float64"),
        (lambda: nn.Dense(3, True), TypeError, r"out_features is True, but an int is needed"),
        (lambda: nn.MaxPool2d(2, ceil_mode=0), TypeError, r"ceil_mode is 0, but True or False is needed"),
        (lambda: nn.AvgPool2d(2, divisor_override=0), ValueError, r"divisor_override is 0, but must be at least 1"),
        (
            lambda: nn.AdaptiveAvgPool2d((1, 2, 3)),
            ValueError,
            r"output_size is \(1, 2, 3\), but needs",
        ),
        (lambda: nn.AdaptiveMaxPool1d(0), ValueError, r"output_size is 0, but must be at least 1"),
        (lambda: nn.LPPool2d(0, 2), ValueError, r"norm_type is 0, but must be above 0"),
        (lambda: nn.Dropout(1.0), ValueError, r"rate is 1\.0, but must be at least 0 and below 1"),
        (lambda: nn.Dropout("half"), TypeError, r"rate is 'half', but a number is needed"),
        (lambda: nn.Sequential([nn.ReLU()]), TypeError, r"layer 0 is \[ReLU\(\)\], but Sequential needs layers"),
        (lambda: nn.Residual(None), TypeError, r"body is None, but a layer is needed, such as nn\.Sequential"),
        (lambda: nn.Residual(nn.ReLU(), [nn.ReLU()]), TypeError, r"shortcut is \[ReLU\(\)\], but a layer is needed"),
    ],
)
def test_refused_settings(make, error, sentence):
    with pytest.raises(error, match=f"^{sentence}"):
        make()


def test_a_layer_with_parameters_is_taken_once():
    layer, relu = nn.Dense(3, 3), nn.ReLU()
    with pytest.raises(ValueError, match=r"layer 2 is given twice, but Dense\(3, 3\) has parameters of its own"):
        nn.Sequential(layer, relu, layer)
    nn.Sequential(relu, layer, relu)


def test_dropout_needs_a_generator_to_train():
    with pytest.raises(TypeError, match=r"rng is None, but Dropout\(0\.5\) draws from a numpy\.random\.Generator"):
        nn.Dropout(0.5).forward(np.ones(3))


def test_x_of_another_dtype_is_refused():
    with pytest.raises(TypeError, match="float64"):
        nn.Conv2d(1, 2, 3)(np.zeros((1, 1, 5, 5)))


@pytest.mark.parametrize("run", [lambda model, x: model(x), lambda model, x: model.forward(x)], ids=["call", "forward"])
def test_an_error_says_in_which_layer(run):
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Dense(8, 2)))
    with pytest.raises(ValueError, match="features") as caught:
        run(model, np.zeros((5, 3, 3), dtype="float32"))
    assert caught.value.__notes__ == [
        "in layer 1, Dense(8, 2), given x of shape (5, 9)",
        "in layer 1, Sequential(ReLU(), Dense(8, 2)), given x of shape (5, 9)",
    ]


@pytest.mark.parametrize("layer", [nn.Flatten(), nn.GlobalAvgPool2d(), nn.ReLU(), nn.Dense(2, 2)], ids=repr)
def test_lists_are_no_arrays(layer):
    with pytest.raises(TypeError, match="x is a list, but an array is needed"):
        layer([[1.0, 2.0]])


def test_global_pooling_needs_a_plane():
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\), but adaptive_avg_pool2d needs \(N, C, H, W\)"):
        nn.GlobalAvgPool2d()(np.zeros((2, 3)))
