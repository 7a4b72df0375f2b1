"""The differentiable torch operators: their gradients are those of torch and of the difference quotient."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

import cnnkit

torch = pytest.importorskip("torch", reason="the operators are torch's")
from torch.nn import functional  # noqa: E402

import cnnkit.interop.torch as operators  # noqa: E402

LABELS = torch.tensor([[0, 2], [1, 1]])


def places(function, *shape):
    """Indices that pooling of an array of this shape by 2 gives."""
    return function(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), 2, return_indices=True)[1]


def tensor(*shape, seed=0, dtype=torch.float64, grad=True):
    """Numbers that all differ by more than gradcheck's step, so that maxima stay where they are."""
    numbers = np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape)
    return torch.tensor(numbers / numbers.size - 0.45, dtype=dtype, requires_grad=grad)


CALLS = {  # name: (shapes of what is differentiable, what else it is called with)
    "conv1d": ([(2, 4, 7), (6, 2, 3), (6,)], {"stride": 2, "padding": 1, "groups": 2}),
    "conv2d": ([(2, 3, 5, 6), (4, 3, 3, 2), (4,)], {"stride": (1, 2), "padding": "same"}),
    "conv3d": ([(2, 3, 4, 3), (2, 2, 2, 2, 2)], {"dilation": (1, 2, 1)}),
    "conv_transpose1d": ([(2, 4, 5), (4, 3, 3), (6,)], {"stride": 2, "padding": 1, "groups": 2}),
    "conv_transpose2d": ([(2, 3, 4, 3), (3, 4, 3, 2), (4,)], {"stride": (1, 2), "output_padding": (0, 1)}),
    "conv_transpose3d": ([(2, 3, 2, 3), (2, 2, 2, 2, 2)], {"dilation": (1, 2, 1)}),
    "max_pool1d": ([(2, 3, 7)], {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 2}),
    "max_pool2d": ([(2, 3, 5, 6)], {"kernel_size": 2, "ceil_mode": True}),
    "max_pool3d": ([(2, 4, 3, 5)], {"kernel_size": (2, 1, 3)}),
    "avg_pool1d": ([(2, 3, 7)], {"kernel_size": 3, "padding": 1, "count_include_pad": False}),
    "avg_pool2d": ([(2, 3, 5, 6)], {"kernel_size": 2, "stride": 1, "divisor_override": 3}),
    "avg_pool3d": ([(2, 4, 3, 5)], {"kernel_size": (2, 1, 3)}),
    "lp_pool1d": ([(2, 3, 7)], {"norm_type": 2, "kernel_size": 3, "stride": 2}),
    "lp_pool2d": ([(2, 3, 5, 6)], {"norm_type": 2, "kernel_size": 2, "ceil_mode": True}),
    "lp_pool3d": ([(2, 4, 3, 5)], {"norm_type": 2, "kernel_size": (2, 1, 3)}),
    "max_unpool1d": ([(2, 3, 3)], {"indices": places(functional.max_pool1d, 2, 3, 6), "kernel_size": 2}),
    "max_unpool2d": ([(2, 3, 2, 3)], {"indices": places(functional.max_pool2d, 2, 3, 4, 6), "kernel_size": 2}),
    "max_unpool3d": ([(2, 3, 2, 2, 3)], {"indices": places(functional.max_pool3d, 2, 3, 4, 4, 6), "kernel_size": 2}),
    "adaptive_max_pool1d": ([(2, 3, 7)], {"output_size": 3}),
    "adaptive_max_pool2d": ([(2, 3, 5, 6)], {"output_size": (2, None)}),
    "adaptive_max_pool3d": ([(2, 4, 3, 5)], {"output_size": 2}),
    "adaptive_avg_pool1d": ([(2, 3, 7)], {"output_size": 3}),
    "adaptive_avg_pool2d": ([(2, 3, 5, 6)], {"output_size": (2, None)}),
    "adaptive_avg_pool3d": ([(2, 4, 3, 5)], {"output_size": 2}),
    "leaky_relu": ([(3, 4)], {"negative_slope": 0.3}),
    "elu": ([(3, 4)], {"alpha": 1.7}),
    "gelu": ([(3, 4)], {"approximate": "tanh"}),
    "silu": ([(3, 4)], {}),
    "sigmoid": ([(3, 4)], {}),
    "tanh": ([(3, 4)], {}),
    "batch_norm": ([(3, 2, 4), (2,), (2,)], {"running_mean": None, "running_var": None, "training": True}),
    "layer_norm": ([(3, 4), (4,), (4,)], {"normalized_shape": 4}),
    "group_norm": ([(2, 4, 3), (4,), (4,)], {"num_groups": 2}),
    "mse_loss": ([(3, 4)], {"target": torch.ones(3, 4), "reduction": "sum"}),
    "dense": ([(2, 3, 4), (5, 4), (5,)], {}),
    "relu": ([(3, 4)], {}),
    "softmax": ([(3, 4)], {"axis": 0}),
    "log_softmax": ([(3, 4)], {}),
    "cross_entropy": ([(2, 3, 2)], {"labels": LABELS, "label_smoothing": 0.1, "reduction": "none"}),
}
every = pytest.mark.parametrize("name", CALLS)


def given(name, **kind):
    """The differentiable tensors under their names, and the other arguments."""
    shapes, others = CALLS[name]
    names = [each for each in inspect.signature(getattr(operators, name)).parameters if each not in others]
    tensors = {each: tensor(*shape, seed=i, **kind) for i, (each, shape) in enumerate(zip(names, shapes))}  # noqa: B905
    if "target" in others:
        others = others | {"target": others["target"].to(next(iter(tensors.values())).dtype)}
    return tensors, others


def test_whatever_has_a_way_back_is_an_operator():
    names = [name for name in cnnkit.__all__ if f"{name}_backward" in cnnkit.__all__]
    assert [name for name in names if not hasattr(operators, name)] == []
    assert [name for name in names if name not in CALLS] == ["dropout"]  # whose results are never the same: below


def test_dropouts_way_back_goes_where_it_went():
    x = tensor(40, 7)
    y, kept = operators.dropout(x, 0.5, rng=np.random.default_rng(0))
    assert torch.equal(y, torch.where(kept, x / 0.5, 0))
    (grad,) = torch.autograd.grad(y.sum(), [x])
    assert torch.equal(grad, kept / 0.5)


def test_two_steps_of_batch_norm_before_the_first_way_back():
    """The running statistics that the second changes in place are no part of the way back of the first."""
    x, mean, variance = tensor(5, 3, 4), torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    ys = [operators.batch_norm(x, None, None, mean, variance, training=True) for _ in range(2)]
    theirs = functional.batch_norm(x, None, None, training=True)
    grads = [torch.autograd.grad((y**3).sum(), [x])[0] for y in (*ys, theirs)]
    for grad in grads[:2]:
        torch.testing.assert_close(grad, grads[2])
    torch.testing.assert_close(mean, 0.19 * x.detach().mean((0, 2)))


@every
def test_gradients_are_those_of_the_difference_quotient(name):
    tensors, others = given(name)
    function = getattr(operators, name)
    assert torch.autograd.gradcheck(
        lambda *values: function(**dict(zip(tensors, values, strict=True)), **others), tuple(tensors.values())
    )


@every
def test_the_result_is_the_functions(name):
    tensors, others = given(name, dtype=torch.float32)
    y = getattr(operators, name)(**tensors, **others)
    detached = {key: value.detach() for key, value in tensors.items()}
    assert y.requires_grad
    assert torch.equal(y, getattr(cnnkit, name)(**detached, **others))
    with torch.no_grad():
        assert not getattr(operators, name)(**tensors, **others).requires_grad


@every
def test_only_what_is_needed_is_computed(name, monkeypatch):
    """`needs` of a way back that knows it are the tensors that require grad."""
    tensors, others = given(name, dtype=torch.float32)
    for which, wanted in tensors.items():
        for other in tensors.values():
            other.requires_grad_(other is wanted)
        y = getattr(operators, name)(**tensors, **others)
        (grad,) = torch.autograd.grad(y.sum(), [wanted])
        assert grad.shape == wanted.shape
        if "needs" in inspect.signature(getattr(cnnkit, f"{name}_backward")).parameters:
            backward = getattr(cnnkit, f"{name}_backward")
            wants = inspect.signature(backward).parameters
            detached = {key: value.detach() for key, value in tensors.items() if key in wants}
            computed = backward(torch.ones_like(y), **detached, **others, needs=(which,))
            assert torch.equal(grad, getattr(computed, which))


def test_indices_come_along_and_have_no_gradient():
    x = tensor(1, 2, 4, 4, dtype=torch.float32)
    y, indices = operators.max_pool2d(x, 2, return_indices=True)
    theirs, places = functional.max_pool2d(x, 2, return_indices=True)
    assert torch.equal(y, theirs)
    assert torch.equal(indices, places)
    assert y.requires_grad
    assert not indices.requires_grad
    y, indices = operators.max_pool2d(x.detach(), 2, return_indices=True)
    assert torch.equal(indices, places)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_small_network_learns_as_torchs_does(dtype, layout):
    dtype = getattr(torch, dtype)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = tensor(4, 3, 8, 8, seed=1, dtype=dtype, grad=False).to(memory_format=memory)
    labels = torch.tensor([0, 4, 2, 2])
    grads = []
    for ours in (True, False):
        module = operators if ours else functional
        weights = [tensor(6, 3, 3, 3, seed=2, dtype=dtype), tensor(6, seed=3, dtype=dtype), tensor(5, 96, dtype=dtype)]
        y = module.conv2d(x, *weights[:2], 1, 1)
        y = module.max_pool2d(module.relu(y), 2)
        y = (operators.dense if ours else functional.linear)(y.flatten(1), weights[2])
        module.cross_entropy(y, labels).backward()
        grads.append([weight.grad for weight in weights])
    loose = 1e-5 if dtype is torch.float32 else 8 * torch.finfo(dtype).eps  # each of the eight steps rounds to halves
    for mine, theirs in zip(*grads, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, theirs, rtol=loose, atol=loose * float(theirs.abs().max()))


def test_a_tensor_changed_after_the_forward_is_noticed():
    x, weight = tensor(1, 1, 4, 4), tensor(1, 1, 2, 2)
    y = operators.conv2d(x, weight)
    with torch.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("power", [1, 2])  # the gradient that comes in has no graph, and has one
def test_second_derivatives_are_refused_and_not_left_out(power):
    """Left out, a penalty on a gradient would count as a constant."""
    x, weight = tensor(1, 1, 4, 4), tensor(1, 1, 2, 2)
    ours = operators.gelu(operators.conv2d(x, weight)).pow(power).sum()
    theirs = functional.gelu(functional.conv2d(x, weight)).pow(power).sum()
    (grad,) = torch.autograd.grad(ours, x, create_graph=True)
    torch.testing.assert_close(grad, torch.autograd.grad(theirs, x)[0])
    with pytest.raises(NotImplementedError, match=r"^a second derivative is asked for, but cnnkit knows first deriv"):
        (weight.sum() + grad.pow(2).sum()).backward()


def test_a_gradient_that_nobody_computes_is_missed():
    op = operators._Operator(lambda y, target: y - target, lambda grad_output, y: grad_output, ("grad_output", "y"), ())
    y, target = tensor(3), tensor(3, seed=1)
    result = operators._Call.apply(op, {}, ("y", "target"), y, target)
    with pytest.raises(NotImplementedError, match=r"^target requires grad, but gradients are known of y alone$"):
        result.sum().backward()
    result = operators._Call.apply(op, {}, ("y", "target"), y, target.detach())
    result.sum().backward()
    assert y.grad.tolist() == [1, 1, 1]


def test_what_stands_behind_a_result_is_given_back():
    """As a dropout's mask is."""
    forward = lambda x: (x * 2, torch.tensor([True, False]))  # noqa: E731
    op = operators._Operator(forward, lambda grad_output, kept: grad_output * kept, ("grad_output", "kept"), ("kept",))
    x = tensor(2)
    y, kept = operators._Call.apply(op, {}, ("x",), x)
    y.sum().backward()
    assert x.grad.tolist() == [1, 0]
    assert not kept.requires_grad


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"^x is a ndarray, but a torch.Tensor is needed: cnnkit.relu takes other arr"):
        operators.relu(np.ones(3))
    with pytest.raises(TypeError, match=r"^weight is a numpy array, but x is a torch array: one"):
        operators.conv2d(tensor(1, 1, 4, 4), np.ones((1, 1, 2, 2)))
    with pytest.raises(TypeError, match="out"):
        operators.conv2d(tensor(1, 1, 4, 4), tensor(1, 1, 2, 2), out=tensor(1, 1, 3, 3))


@every
def test_operators_say_what_they_are(name):
    function = getattr(operators, name)
    ours = inspect.signature(getattr(cnnkit, name)).parameters
    assert list(inspect.signature(function).parameters) == [p for p in ours if p not in operators.NOT_HERE]
    assert f"cnnkit.{name}" in function.__doc__
    assert function.__name__ == name


def test_torch_is_imported_by_this_module_alone():
    code = (
        "import sys, cnnkit, cnnkit.interop; cnnkit.conv2d; print('torch' in sys.modules);"
        "import cnnkit.interop.torch; print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.split() == ["False", "True"]
