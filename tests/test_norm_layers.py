"""Normalisation layers: running statistics in training, files and checkpoints; PyTorch's names."""

import copy

import numpy as np
import pytest

from cnnkit import nn, optim

RUNNING = ["1.running_mean", "1.running_var"]


def model(seed=0):
    return nn.Sequential(nn.Dense(2, 8, rng=seed), nn.BatchNorm1d(8), nn.ReLU(), nn.Dense(8, 2, rng=seed + 1))


def examples():
    x = np.random.default_rng(0).normal(3, 2, (60, 2)).astype("float32")
    return x, (x[:, 0] > x[:, 1]).astype(int)


def fit(network, epochs, **more):
    optimizer = optim.SGD(lr=0.1, momentum=0.9)
    return nn.fit(network, examples(), epochs=epochs, batch_size=20, optimizer=optimizer, progress=False, **more)


def test_forward_trains_and_a_call_infers():
    layer, x = nn.BatchNorm2d(3, momentum=1.0), np.random.default_rng(0).normal(5, 2, (4, 3, 5, 6)).astype("float32")
    np.testing.assert_allclose(layer(x), x / np.sqrt(1 + 1e-5), rtol=1e-6)
    assert not layer.running_mean.any()
    y, _ = layer.forward(x)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean, x.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(layer.running_var, x.var((0, 2, 3), ddof=1), rtol=1e-5)
    before = layer.running_mean.copy()
    np.testing.assert_allclose(layer(x), y, atol=0.02)  # the biased variance of 120 numbers and the unbiased
    np.testing.assert_array_equal(layer.running_mean, before)


def test_running_statistics_are_state_but_no_parameters():
    network = nn.Sequential(model(), nn.BatchNorm1d(2, affine=False))
    assert [name for name in network.state_dict() if "running" in name] == [
        *("0.1.running_mean", "0.1.running_var", "1.running_mean", "1.running_var")
    ]
    assert not any("running" in name for name in network.parameters())
    assert list(nn.BatchNorm1d(2, affine=False).parameters()) == []
    layer = nn.BatchNorm1d(2, affine=False)
    with pytest.raises(ValueError, match="layer 1 is given twice"):
        nn.Sequential(layer, layer)


def test_a_late_pullback_is_that_of_its_own_batch():
    layer, rng = nn.BatchNorm1d(3, dtype="float64"), np.random.default_rng(0)
    first, second, grad = rng.normal(size=(3, 5, 3))
    _, pullback = layer.forward(first)
    expected = pullback(grad)[0]
    layer.forward(second)
    np.testing.assert_array_equal(pullback(grad)[0], expected)


def test_files_hold_running_statistics(tmp_path):
    network, x = model(), examples()[0]
    fit(network, 2)
    network.save(tmp_path / "model.safetensors")
    again = nn.load(tmp_path / "model.safetensors")
    assert repr(again) == repr(network)
    np.testing.assert_array_equal(again(x), network(x))
    for name in RUNNING:
        np.testing.assert_array_equal(again.state_dict()[name], network.state_dict()[name])


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm3d(4, 1e-3, 0.2, False),
        nn.LayerNorm((3, 4), 1e-3),
        nn.LayerNorm(3, elementwise_affine=False, dtype="float64"),
        nn.GroupNorm(2, 4, affine=False),
    ],
    ids=repr,
)
def test_layers_come_back_from_files(layer, tmp_path):
    layer.save(tmp_path / "layer.safetensors")
    assert repr(nn.load(tmp_path / "layer.safetensors")) == repr(layer)


def test_going_on_from_a_checkpoint_is_the_same_to_the_bit(tmp_path):
    path = tmp_path / "run.safetensors"
    straight, stopped, resumed = model(), model(), model()
    fit(straight, 4)
    fit(stopped, 2, callbacks=[nn.Checkpoint(path)])
    fit(resumed, 4, resume=path)
    for name, array in straight.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], array, err_msg=name)
    assert all(straight.state_dict()[name].any() for name in RUNNING)


def test_deep_copies_keep_their_own_statistics():
    network = model()
    twin = copy.deepcopy(network)
    fit(network, 1)
    assert not twin.state_dict()["1.running_mean"].any()


def test_pytorch_takes_the_weights_and_trains_alike():
    torch = pytest.importorskip("torch", reason="PyTorch is the peer")
    rng, parts = np.random.default_rng(0), torch.nn
    ours = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False, rng=0, dtype="float64"),
        nn.BatchNorm2d(4, momentum=0.3, dtype="float64"),
        nn.ReLU(),
        nn.GroupNorm(2, 4, dtype="float64"),
        nn.LayerNorm(5, dtype="float64"),
    )
    theirs = parts.Sequential(
        parts.Conv2d(2, 4, 3, padding=1, bias=False),
        parts.BatchNorm2d(4, momentum=0.3),
        parts.ReLU(),
        parts.GroupNorm(2, 4),
        parts.LayerNorm(5),
    ).double()
    for array in ours.state_dict().values():
        array += rng.uniform(0.1, 0.5, array.shape)
    counted = {"1.num_batches_tracked": torch.tensor(0)}  # the one name that ours do not have
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()} | counted)
    for _ in range(2):
        x, grad = rng.normal(size=(3, 2, 6, 5)), rng.normal(size=(3, 4, 6, 5))
        y, pullback = ours.forward(x)
        _, grads = pullback(grad)
        theirs.zero_grad()
        y_theirs = theirs(torch.tensor(x))
        y_theirs.backward(torch.tensor(grad))
        np.testing.assert_allclose(y, y_theirs.detach().numpy(), rtol=1e-10, atol=1e-10)
        for name, parameter in theirs.named_parameters():
            np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=1e-9, atol=1e-9, err_msg=name)
    state = theirs.state_dict()
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(array, state[name].numpy(), rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(ours(x), theirs.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: nn.BatchNorm1d(0), ValueError, "num_features is 0, but must be at least 1"),
        (lambda: nn.BatchNorm1d(3, eps=0), ValueError, "eps is 0, but must be above 0"),
        (lambda: nn.BatchNorm1d(3, momentum=2), ValueError, "momentum is 2, but must be from 0 to 1"),
        (lambda: nn.BatchNorm1d(3, momentum=None), TypeError, "momentum is None, but a number is needed"),
        (lambda: nn.BatchNorm1d(3, affine=1), TypeError, "affine is 1, but True or False is needed"),
        (lambda: nn.BatchNorm1d(3, dtype="int64"), TypeError, "dtype is int64, but a layer needs float32 or float64"),
        (lambda: nn.LayerNorm((3, 0)), ValueError, "normalized_shape is 0, but must be at least 1"),
        (lambda: nn.GroupNorm(3, 4), ValueError, "num_channels is 4, which num_groups=3 does not divide"),
        (
            lambda: nn.BatchNorm2d(3)(np.ones((2, 3), "float32")),
            ValueError,
            r"x has shape \(2, 3\), but BatchNorm2d needs \(N, C, H, W\)",
        ),
        (
            lambda: nn.BatchNorm1d(3)(np.ones((2, 3, 4, 5), "float32")),
            ValueError,
            r"x has shape \(2, 3, 4, 5\), but BatchNorm1d needs \(N, C\) or \(N, C, L\)",
        ),
        (
            lambda: nn.BatchNorm1d(3).forward(np.ones((1, 3), "float32")),
            ValueError,
            r"x of shape \(1, 3\) has 1 values per channel",
        ),
        (lambda: nn.BatchNorm1d(3)([1.0]), TypeError, "x is a list, but an array is needed"),
    ],
)
def test_mistakes(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
