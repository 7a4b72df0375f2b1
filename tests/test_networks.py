"""Networks as people build them, beside the same in PyTorch: one step of training from the same weights."""

from types import SimpleNamespace

import numpy as np
import pytest

import cnnkit
from cnnkit import nn, optim

NEEDED = ("BatchNorm2d", "AdaptiveAvgPool2d")
lacking = [name for name in NEEDED if not hasattr(nn, name)]
pytestmark = pytest.mark.skipif(bool(lacking), reason=f"cnnkit.nn has no {', '.join(lacking)} yet")

CLASSES, BATCH = 5, 4


# --- the networks: one text for both libraries ---------------------------------------------------


def resnet18(parts):
    """Four stages of two blocks (He et al. 2016, arXiv 1512.03385), with few channels, for images of 32x32."""
    layers = [*conv_norm(parts, 3, 4, 7, 1), parts.ReLU(), parts.MaxPool2d(3, 2, 1)]
    channels = 4
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            layers += [basic_block(parts, channels, 4 * 2**stage, stride), parts.ReLU()]
            channels = 4 * 2**stage
    return parts.Sequential(*layers, *head(parts, channels))


def basic_block(parts, ins, outs, stride):
    body = [*conv_norm(parts, ins, outs, 3, stride), parts.ReLU(), *conv_norm(parts, outs, outs, 3, 1)]
    if stride == 1 and ins == outs:
        return parts.Residual(parts.Sequential(*body))
    return parts.Residual(parts.Sequential(*body), parts.Sequential(*conv_norm(parts, ins, outs, 1, stride)))


def mobilenet_v2(parts):
    """Inverted residuals around depthwise convolutions (Sandler et al. 2018, arXiv 1801.04381), with plain ReLUs."""
    layers, channels = [*conv_norm(parts, 3, 8, 3, 2), parts.ReLU()], 8
    for outs, stride in ((8, 1), (12, 2), (12, 1), (16, 2), (16, 1)):
        layers.append(inverted_residual(parts, channels, outs, stride))
        channels = outs
    layers += [*conv_norm(parts, channels, 32, 1, 1), parts.ReLU()]
    return parts.Sequential(*layers, *head(parts, 32))


def inverted_residual(parts, ins, outs, stride, expansion=4):
    wide = expansion * ins
    body = parts.Sequential(
        *(*conv_norm(parts, ins, wide, 1, 1), parts.ReLU()),
        *(*conv_norm(parts, wide, wide, 3, stride, groups=wide), parts.ReLU()),
        *conv_norm(parts, wide, outs, 1, 1),
    )
    return parts.Residual(body) if stride == 1 and ins == outs else body


def conv_norm(parts, ins, outs, kernel, stride, groups=1):
    return parts.Conv2d(ins, outs, kernel, stride, kernel // 2, 1, groups, bias=False), parts.BatchNorm2d(outs)


def head(parts, channels):
    return parts.AdaptiveAvgPool2d(1), parts.Flatten(), parts.Dense(channels, CLASSES)


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


SAME = ("ReLU", "MaxPool2d", "AdaptiveAvgPool2d", "Flatten", "Sequential", "Residual")


def theirs():
    """The parts in PyTorch, under our names."""
    parts = pytest.importorskip("torch", reason="PyTorch is the peer").nn

    class Residual(parts.Module):
        def __init__(self, body, shortcut=None):
            super().__init__()
            self.body, self.shortcut = body, shortcut or parts.Identity()

        def forward(self, x):
            return self.body(x) + self.shortcut(x)

    found = {name: getattr(parts, name) for name in (*SAME[:-1], "Conv2d", "BatchNorm2d")}
    return SimpleNamespace(**found, Dense=parts.Linear, Residual=Residual)


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
