"""Networks as people build them, beside the same in PyTorch: one step of training from the same weights."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

import cnnkit
from cnnkit import nn, optim
from cnnkit.cli.bench import cases, networks

NEEDED = ("BatchNorm2d", "AdaptiveAvgPool2d")
lacking = [name for name in NEEDED if not hasattr(nn, name)]
pytestmark = pytest.mark.skipif(bool(lacking), reason=f"cnnkit.nn has no {', '.join(lacking)} yet")

CLASSES, BATCH = 5, 4


# --- the networks, with few channels, for images of 32x32 -----------------------------------------


def resnet18(parts):
    return networks.resnet18(parts, channels=4, classes=CLASSES, stride=1)


def mobilenet_v2(parts):
    residuals = [(1, 8, 1, 1), (4, 12, 2, 2), (4, 16, 2, 2)]
    return networks.mobilenet_v2(parts, residuals, first=8, last=32, classes=CLASSES)


NETWORKS = pytest.mark.parametrize("network", [resnet18, mobilenet_v2], ids=lambda network: network.__name__)


def ours(dtype):
    """The parts in cnnkit."""
    rng = np.random.default_rng(0)
    return SimpleNamespace(
        Conv2d=lambda *args, **kwargs: nn.Conv2d(*args, **kwargs, rng=rng, dtype=dtype),
        Dense=lambda *args: nn.Dense(*args, rng=rng, dtype=dtype),
        BatchNorm2d=lambda channels: nn.BatchNorm2d(channels, dtype=dtype),
        **{name: getattr(nn, name) for name in SAME},
    )


def theirs():
    pytest.importorskip("torch", reason="PyTorch is the peer")
    return importlib.import_module("cnnkit.cli.bench.peers.pytorch").parts()


SAME = ("ReLU", "MaxPool2d", "AdaptiveAvgPool2d", "Flatten", "Sequential", "Residual")


def twins(network, dtype):
    """The same network with the same state, of cnnkit and (in float64) of PyTorch."""
    import torch

    model, peer = network(ours(dtype)), network(theirs()).double()
    rng = np.random.default_rng(1)
    for name, array in model.state_dict().items():
        if array.ndim == 1:  # norms and biases that do something
            array += rng.uniform(0, 0.5, array.shape) if "var" in name else rng.normal(0, 0.2, array.shape)
    state = {name: torch.tensor(np.float64(array)) for name, array in model.state_dict().items()}
    counts = {name: array for name, array in peer.state_dict().items() if name.endswith("num_batches_tracked")}
    peer.load_state_dict(state | counts)  # strict: the names are PyTorch's
    return model, peer


def data(dtype):
    rng = np.random.default_rng(2)
    return rng.normal(size=(BATCH, 3, 32, 32)).astype(dtype), rng.integers(0, CLASSES, BATCH)


def assert_near(found, expected, dtype, name=""):
    """Within 1e-4 (of float64: 1e-10) of the largest number of an array."""
    expected = expected.detach().numpy()
    bound = (1e-4 if dtype == "float32" else 1e-10) * max(np.abs(expected).max(), 1e-3)
    assert found.dtype == dtype
    assert found.shape == expected.shape, name
    assert np.abs(found - expected).max() <= bound, name


@NETWORKS
def test_one_step_of_training(network, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is the peer")
    model, peer = twins(network, dtype.name)
    x, labels = data(dtype)
    rule = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer, descent = optim.SGD(**rule), torch.optim.SGD(peer.parameters(), **rule)
    assert_near(model(x), peer.eval()(torch.tensor(np.float64(x))), dtype, "inference")

    logits, pullback = model.forward(x)
    loss = cnnkit.cross_entropy(logits, labels)
    grad_x, grads = pullback(cnnkit.cross_entropy_backward(1.0, logits, labels))
    optimizer.step(model.parameters(), grads)

    tensor = torch.tensor(np.float64(x), requires_grad=True)
    theirs_logits = peer.train()(tensor)
    theirs_loss = torch.nn.functional.cross_entropy(theirs_logits, torch.tensor(labels))
    theirs_loss.backward()
    their_grads = {name: parameter.grad.clone() for name, parameter in peer.named_parameters()}
    descent.step()

    assert_near(logits, theirs_logits, dtype, "logits")
    assert_near(np.asarray(loss, dtype), theirs_loss, dtype, "loss")
    assert_near(grad_x, tensor.grad, dtype, "gradient of x")
    assert list(grads) == list(their_grads)
    for name, grad in grads.items():
        assert_near(grad, their_grads[name], dtype, name)
    after = peer.state_dict()
    for name, array in model.state_dict().items():  # parameters and running statistics
        assert_near(array, after[name], dtype, name)
    assert_near(model(x), peer.eval()(torch.tensor(np.float64(x))), dtype, "inference after the step")


@NETWORKS
def test_it_comes_back_from_a_file(network, tmp_path):
    model, (x, labels) = network(ours("float32")), data("float32")
    settings = {"batch_size": BATCH, "optimizer": optim.Adam(1e-3), "progress": False}
    nn.fit(model, (x, labels), epochs=2, **settings)
    model.save(tmp_path / "model")
    again = nn.load(tmp_path / "model")
    assert repr(again) == repr(model)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)
    np.testing.assert_array_equal(again(x), model(x))
    assert model.astype("float64")(x.astype("float64")) == pytest.approx(model(x), rel=1e-3, abs=1e-4)


@NETWORKS
def test_it_learns_its_few_images(network):
    model, (x, labels) = network(ours("float32")), data("float32")
    history = nn.fit(model, (x, labels), epochs=12, batch_size=BATCH, optimizer=optim.Adam(3e-3), progress=False)
    assert history.loss[-1] < history.loss[0] / 3


@NETWORKS
def test_fused_it_infers_the_same(network, dtype):
    model = network(ours(dtype.name))
    x, _ = data(dtype)
    for _ in range(3):
        model.forward(x)  # running statistics that do something
    before = {name: array.copy() for name, array in model.state_dict().items()}
    fused = nn.fuse(model)
    assert "BatchNorm" not in repr(fused)
    assert "BatchNorm" in repr(model)
    bound = (1e-5 if dtype == "float32" else 1e-13) * np.abs(model(x)).max()
    assert np.abs(fused(x) - model(x)).max() <= bound
    for array in fused.state_dict().values():
        array[...] = 0
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_only_a_norm_that_follows_its_convolution_is_fused():
    class Twice(nn.Conv2d):
        def __call__(self, x):
            return 2 * super().__call__(x)

    norm, relu = nn.BatchNorm2d(3), nn.ReLU()
    for layers in ((norm, nn.Conv2d(3, 3, 1)), (nn.Conv2d(3, 3, 1), relu, norm), (Twice(3, 3, 1), norm), (norm,)):
        assert len(nn.fuse(nn.Sequential(*layers))) == len(layers)
    for layers in ((nn.Conv2d(3, 3, 1), nn.BatchNorm2d(4)), (nn.Conv2d(3, 3, 1), nn.BatchNorm1d(3))):
        with pytest.raises(ValueError, match="x"):
            nn.fuse(nn.Sequential(*layers))(np.zeros((1, 3, 2, 2), np.float32))
    with pytest.raises(TypeError, match="a layer is needed"):
        nn.fuse(np.zeros(3))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Tanh])
def test_an_activation_in_the_same_pass_computes_the_same(activation, dtype):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(dtype)
    layers = nn.Conv2d(3, 4, 3, rng=0, dtype=dtype), activation(), nn.Flatten(), nn.Dense(60, 5, rng=1, dtype=dtype)
    step_by_step = x
    for layer in (*layers, activation()):
        step_by_step = layer(step_by_step)
    np.testing.assert_array_equal(nn.Sequential(*layers, activation())(x), step_by_step)


def test_the_raced_networks_have_the_multiply_adds_that_are_said():
    for case in cases.NETWORK.values():
        model = getattr(networks, case.op)(nn)
        assert case.x[0] * model.summary((1, *case.x[1:])).multiply_adds == case.multiply_adds
