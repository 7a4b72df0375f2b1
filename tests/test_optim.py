"""Optimizers against PyTorch's, schedules against numbers worked out by hand."""

import copy

import numpy as np
import pytest

from cnnkit import optim

OPTIMIZERS = {
    "sgd": (optim.SGD, "SGD", {"lr": 0.1}),
    "decayed sgd": (optim.SGD, "SGD", {"lr": 0.1, "weight_decay": 0.02}),
    "momentum": (optim.SGD, "SGD", {"lr": 0.1, "momentum": 0.9}),
    "decayed momentum": (optim.SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02}),
    "nesterov": (optim.SGD, "SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.02}),
    "adam": (optim.Adam, "Adam", {}),
    "other adam": (optim.Adam, "Adam", {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "adamw": (optim.AdamW, "AdamW", {"lr": 0.02}),
    "other adamw": (optim.AdamW, "AdamW", {"lr": 0.03, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.3}),
}


def start(dtype=np.float64):
    rng = np.random.default_rng(0)
    return {"0.weight": rng.normal(size=(3, 4)).astype(dtype), "0.bias": rng.normal(size=3).astype(dtype)}


def gradients(step, parameters):
    """Depend on the parameters, as a loss's do, so that a wrong step makes the following ones wrong."""
    rng = np.random.default_rng(step)
    return {name: np.sin(3 * p) + rng.normal(size=p.shape).astype(p.dtype) for name, p in parameters.items()}


def run(optimizer, parameters, steps):
    for step in steps:
        optimizer.step(parameters, gradients(step, parameters))
    return parameters


@pytest.mark.parametrize(("ours", "theirs", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_as_pytorch(ours, theirs, settings):
    torch = pytest.importorskip("torch", reason="the rules are PyTorch's, which is not installed here")
    tensors = {name: torch.tensor(array) for name, array in start().items()}
    optimizer = getattr(torch.optim, theirs)(tensors.values(), **settings)
    for step in range(12):
        for name, grad in gradients(step, {name: tensor.numpy() for name, tensor in tensors.items()}).items():
            tensors[name].grad = torch.tensor(grad)
        optimizer.step()
    result = run(ours(**settings), start(), range(12))
    for name, tensor in tensors.items():
        np.testing.assert_allclose(result[name], tensor.numpy(), rtol=1e-12, atol=1e-12)


def test_sgd_by_hand():
    parameter = np.array([1.0])
    optimizer = optim.SGD(lr=0.5, momentum=0.5)
    optimizer.step({"p": parameter}, {"p": np.array([1.0])})  # velocity 1
    assert parameter == 0.5
    optimizer.step({"p": parameter}, {"p": np.array([0.25])})  # velocity 0.75
    assert parameter == 0.125


def test_adam_first_step_by_hand():
    """Both means are the first gradient itself, so that the step is lr, whatever the gradient's size."""
    parameter = np.array([1.0, 1.0])
    optim.Adam(lr=0.25, eps=0).step({"p": parameter}, {"p": np.array([1000.0, -0.001])})
    np.testing.assert_allclose(parameter, [0.75, 1.25], rtol=1e-12)


@pytest.mark.parametrize(("kind", "_", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_in_place_and_in_the_parameters_dtype(kind, _, settings):
    parameters = start(np.float32)
    before = dict(parameters)
    optimizer = kind(**settings)
    run(optimizer, parameters, range(3))
    for name, array in parameters.items():
        assert array is before[name]
        assert array.dtype == np.float32
    for name, array in optimizer.state_dict().items():
        assert name.endswith(".steps") or array.dtype == np.float32


def test_a_float64_scalar_as_learning_rate_widens_nothing():
    expected = run(optim.SGD(0.1), start(np.float32), range(3))
    result = run(optim.SGD(lambda progress: np.float64(0.1)), start(np.float32), range(3))
    for name, array in result.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize(("kind", "_", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_gradients_are_not_written(kind, _, settings):
    parameters, optimizer = start(), kind(**settings)
    given = [gradients(step, parameters) for step in range(3)]
    before = copy.deepcopy(given)
    for grads in given:
        optimizer.step(parameters, grads)
    for grads, expected in zip(given, before, strict=True):
        for name, grad in grads.items():
            np.testing.assert_array_equal(grad, expected[name])


@pytest.mark.parametrize(("kind", "_", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_state_goes_on_to_the_bit(kind, _, settings):
    whole = run(kind(**settings), start(), range(6))
    first = kind(**settings)
    halfway = run(first, start(), range(3))
    second = kind(**settings)
    second.load_state_dict(first.state_dict())
    run(first, copy.deepcopy(halfway), range(3, 6))  # what the first does now must not reach the second
    run(second, halfway, range(3, 6))
    for name in whole:
        np.testing.assert_array_equal(halfway[name], whole[name])


def test_operators_are_all_it_needs():
    torch = pytest.importorskip("torch", reason="tensors stand for arrays of another library")
    for kind, _, settings in OPTIMIZERS.values():
        expected = run(kind(**settings), start(), range(3))
        tensors = {name: torch.tensor(array) for name, array in start().items()}
        optimizer = kind(**settings)
        for step in range(3):
            grads = gradients(step, {name: tensor.numpy() for name, tensor in tensors.items()})
            optimizer.step(tensors, {name: torch.tensor(grad) for name, grad in grads.items()})
        for name, tensor in tensors.items():
            np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=1e-12)


def test_cosine():
    schedule = optim.cosine(1.0, final=0.2)
    values = [schedule(progress) for progress in (0, 1 / 3, 0.5, 2 / 3, 1)]
    np.testing.assert_allclose(values, [1.0, 0.8, 0.6, 0.4, 0.2], rtol=1e-12)


def test_cosine_after_warmup():
    schedule = optim.cosine(0.8, warmup=0.25)
    values = [schedule(progress) for progress in (0, 0.125, 0.25, 0.625, 1)]
    np.testing.assert_allclose(values, [0.0, 0.4, 0.8, 0.4, 0.0], rtol=1e-12, atol=1e-15)


def test_step_decay():
    schedule = optim.step_decay(1.0, 0.1, [0.5, 0.75])
    values = [schedule(progress) for progress in (0, 0.49, 0.5, 0.74, 0.75, 1)]
    np.testing.assert_allclose(values, [1.0, 1.0, 0.1, 0.1, 0.01, 0.01], rtol=1e-12)


def test_a_schedule_is_asked_at_each_step():
    parameter = np.array([1.0])
    optim.SGD(lr=lambda progress: 1 - progress).step({"p": parameter}, {"p": np.array([1.0])}, progress=0.75)
    assert parameter == 0.75


@pytest.mark.parametrize(
    "made",
    [
        optim.cosine(0.1, 0.01, 0.2),
        optim.step_decay(0.1, 0.5, (0.5,)),
        optim.SGD(optim.cosine(0.1), momentum=0.9, nesterov=True),
        optim.Adam(optim.step_decay(0.1, 0.5, (0.25, 0.5))),
        optim.AdamW(3e-4),
    ],
)
def test_repr_makes_it_again(made):
    again = eval(repr(made), vars(optim))
    assert repr(again) == repr(made)
    assert type(again) is type(made)


def test_copies_are_apart():
    first = optim.Adam()
    run(first, start(), range(2))
    second = copy.deepcopy(first)
    run(first, start(), range(2))
    assert second.state_dict()["0.bias.steps"] == 2
    assert first.state_dict()["0.bias.steps"] == 4


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: optim.SGD(lr=-1.0), ValueError, r"lr is -1.0, but must be at least 0 and finite"),
        (lambda: optim.SGD(lr=float("nan")), ValueError, r"lr is nan, but must be at least 0 and finite"),
        (lambda: optim.SGD(lr="fast"), TypeError, r"lr is 'fast', but a number is needed"),
        (lambda: optim.SGD(lr=0.1, momentum=1.0), ValueError, r"momentum is 1.0, but must be at least 0 and below 1"),
        (lambda: optim.SGD(lr=0.1, nesterov=True), ValueError, r"nesterov needs momentum, but momentum is 0"),
        (lambda: optim.Adam(betas=(0.9, 1.0)), ValueError, r"betas is 1.0, but must be at least 0 and below 1"),
        (lambda: optim.Adam(betas=(0.9,)), ValueError, r"betas is \(0.9,\), but must be two numbers"),
        (lambda: optim.AdamW(weight_decay=-0.1), ValueError, r"weight_decay is -0.1, but must be at least 0"),
        (lambda: optim.cosine(0.1, warmup=1.0), ValueError, r"warmup is 1.0, but must be at least 0 and below 1"),
        (lambda: optim.cosine(None), TypeError, r"lr is None, but a number is needed"),
        (lambda: optim.step_decay(0.1, 0.5, (2,)), ValueError, r"milestones is 2, but must be at least 0 and below 1"),
    ],
)
def test_refused_settings(make, error, sentence):
    with pytest.raises(error, match=f"^{sentence}"):
        make()


@pytest.mark.parametrize(
    ("grads", "sentence"),
    [
        ({"0.weight": np.zeros((3, 4))}, r"grads and parameters must have the same names, but differ in 0\.bias"),
        (
            {"0.weight": np.zeros((3, 4)), "0.bias": np.zeros(4)},
            r"the gradient of '0\.bias' has shape \(4,\), but the parameter has \(3,\)",
        ),
    ],
)
def test_gradients_that_do_not_fit_change_nothing(grads, sentence):
    parameters = start()
    with pytest.raises(ValueError, match=sentence):
        optim.SGD(lr=0.1).step(parameters, grads)
    np.testing.assert_array_equal(parameters["0.weight"], start()["0.weight"])


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"0.bias.velocity": np.zeros(3)}, r"state has '0\.bias\.velocity', but this Adam keeps steps, mean, square"),
        ({"0.bias.mean": np.zeros(3)}, r"state lacks steps, square of '0\.bias', but Adam needs them"),
    ],
)
def test_state_that_does_not_fit_changes_nothing(state, sentence):
    optimizer = optim.Adam()
    run(optimizer, start(), range(2))
    with pytest.raises(ValueError, match=sentence):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict()["0.bias.steps"] == 2


def test_state_of_other_shapes_is_refused():
    optimizer = optim.SGD(lr=0.1, momentum=0.9)
    optimizer.load_state_dict({"0.weight.velocity": np.zeros((3, 4)), "0.bias.velocity": np.zeros(5)})
    parameters = start()
    with pytest.raises(ValueError, match=r"the velocity of '0\.bias' has shape \(5,\), but the parameter has \(3,\)"):
        run(optimizer, parameters, range(1))
    np.testing.assert_array_equal(parameters["0.weight"], start()["0.weight"])
