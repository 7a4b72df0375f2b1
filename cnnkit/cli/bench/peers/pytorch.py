"""PyTorch: its functions without autograd, and of the way back the same functions that its autograd calls."""

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from cnnkit.cli.bench import cases, networks

torch: Any = importlib.import_module("torch")
F: Any = torch.nn.functional
aten: Any = torch.ops.aten

NAME = "PyTorch"
Arrays = dict[str, np.ndarray]
Work = Callable[[], tuple[Any, ...]]


def use_threads(n: int) -> None:
    torch.set_num_threads(n)
    torch.set_grad_enabled(False)


def conv(case: cases.Conv, arrays: Arrays, direction: str) -> Work:
    x, weight, bias, grad = _tensors(arrays, "x", "weight", "bias", "grad")
    if direction == "forward":
        forward = getattr(F, case.op)
        return lambda: (forward(x, weight, bias, *case.window),)
    axes = len(case.weight) - 2
    stride, padding, dilation = [case.stride] * axes, _per_axis(case.padding, axes), [case.dilation] * axes
    window = ([case.weight[0]], stride, padding, dilation, False, [0] * axes, case.groups, [True] * 3)
    return lambda: aten.convolution_backward(grad, x, weight, *window)


def convtranspose(case: cases.ConvTranspose, arrays: Arrays, direction: str) -> Work:
    x, weight, bias, grad = _tensors(arrays, "x", "weight", "bias", "grad")
    if direction == "forward":
        forward = getattr(F, case.op)
        return lambda: (forward(x, weight, bias, *case.window),)
    stride, padding, output_padding = ([number] * (len(case.weight) - 2) for number in case.window)
    window = ([case.weight[1]], stride, padding, [1] * len(stride), True, output_padding, 1, [True] * 3)
    return lambda: aten.convolution_backward(grad, x, weight, *window)


def dense(case: cases.Dense, arrays: Arrays, direction: str) -> Work:
    x, weight, bias, grad = _tensors(arrays, "x", "weight", "bias", "grad")
    if direction == "forward":
        return lambda: (F.linear(x, weight, bias),)
    return lambda: (grad @ weight, grad.T @ x, grad.sum(0))


def pool(case: cases.Pool, arrays: Arrays, direction: str) -> Work:
    x, grad = _tensors(arrays, "x", "grad")
    if direction == "forward":
        forward = getattr(F, case.op)
        return lambda: (forward(x, *case.window),)
    window = [[size] * 2 for size in case.window]
    if case.kind == "avg":
        return lambda: (aten.avg_pool2d_backward(grad, x, *window, False, True, None),)
    _, indices = F.max_pool2d(x, *case.window, return_indices=True)
    return lambda: (aten.max_pool2d_with_indices_backward(grad, x, *window, [1, 1], False, indices),)


def adaptivepool(case: cases.AdaptivePool, arrays: Arrays, direction: str) -> Work:
    x, grad = _tensors(arrays, "x", "grad")
    if direction == "forward":
        forward = getattr(F, case.op)
        return lambda: (forward(x, case.output_size),)
    if case.kind == "avg":
        if case.output_size == 1:  # what its autograd does: the forward is a mean
            return lambda: (grad.expand(x.shape) / (x.shape[2] * x.shape[3]),)
        return lambda: (aten._adaptive_avg_pool2d_backward(grad, x),)
    _, indices = F.adaptive_max_pool2d(x, case.output_size, return_indices=True)
    return lambda: (aten.adaptive_max_pool2d_backward(grad, x, indices),)


def lppool(case: cases.LPPool, arrays: Arrays, direction: str) -> Work:
    x, grad = _tensors(arrays, "x", "grad")
    if direction == "forward":
        return lambda: (F.lp_pool2d(x, *case.window),)
    return _recorded(lambda x: F.lp_pool2d(x, *case.window), x, grad)


def unpool(case: cases.Unpool, arrays: Arrays, direction: str) -> Work:
    x, indices, grad = _tensors(arrays, "x", "indices", "grad")
    if direction == "forward":
        return lambda: (F.max_unpool2d(x, indices, case.kernel_size),)
    return _recorded(lambda x: F.max_unpool2d(x, indices, case.kernel_size), x, grad)


def _recorded(layer: Callable[..., Any], x: Any, grad: Any) -> Work:
    """The way back of what is no single function of PyTorch's: its autograd, with the forward done beforehand."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = layer(x)
    return lambda: torch.autograd.grad(y, x, grad, retain_graph=True)


def elementwise(case: cases.Elementwise, arrays: Arrays, direction: str) -> Work:
    x, grad = _tensors(arrays, "x", "grad")
    if case.op == "softmax":
        if direction == "forward":
            return lambda: (aten._softmax(x, -1, False),)
        return lambda: (aten._softmax_backward_data(grad, aten._softmax(x, -1, False), -1, x.dtype),)  # from x, as ours
    forward, backward = {
        "relu": (F.relu, lambda grad, x: aten.threshold_backward(grad, x, 0)),
        "gelu": (F.gelu, aten.gelu_backward),
        "silu": (F.silu, aten.silu_backward),
        "tanh": (torch.tanh, lambda grad, x: aten.tanh_backward(grad, torch.tanh(x))),  # from x, as ours
    }[case.op]
    if direction == "forward":
        return lambda: (forward(x),)
    return lambda: (backward(grad, x),)


def norm(case: cases.Norm, arrays: Arrays, direction: str) -> Work:
    """Of the way back, the statistics are those of the forward, which ours measures again."""
    x, gamma, beta, grad = _tensors(arrays, "x", "gamma", "beta", "grad")
    every = [True] * 3
    if case.op == "batch_norm":
        if direction == "forward":
            return lambda: (F.batch_norm(x, None, None, gamma, beta, True),)
        _, *kept = aten.native_batch_norm(x, gamma, beta, None, None, True, 0.1, 1e-5)
        return lambda: aten.native_batch_norm_backward(grad, x, gamma, None, None, *kept, True, 1e-5, every)
    if case.op == "layer_norm":
        shape = list(case.channels)
        if direction == "forward":
            return lambda: (F.layer_norm(x, shape, gamma, beta),)
        _, *kept = aten.native_layer_norm(x, shape, gamma, beta, 1e-5)
        return lambda: aten.native_layer_norm_backward(grad, x, shape, *kept, gamma, beta, every)
    if direction == "forward":
        return lambda: (F.group_norm(x, case.groups, gamma, beta),)
    sizes = *case.x[:2], x[0, 0].numel(), case.groups
    _, *kept = aten.native_group_norm(x, gamma, beta, *sizes, 1e-5)
    return lambda: aten.native_group_norm_backward(grad, x, *kept, gamma, *sizes, every)


def network(case: cases.Network, arrays: Arrays, direction: str) -> Work:
    model, (x, grad) = getattr(networks, case.op)(parts()), _tensors(arrays, "x", "grad")
    for name, tensor in model.state_dict().items():
        if tensor.ndim:  # not the count of batches
            tensor.copy_(torch.from_numpy(networks.numbers(name, tuple(tensor.shape))))
    if direction == "forward":
        fused = importlib.import_module("torch.fx.experimental.optimization").fuse(model.eval())
        return lambda: (fused(x),)
    learnt = [x.requires_grad_(), *model.parameters()]

    def step() -> tuple[Any, ...]:
        with torch.enable_grad():
            y = model(x)
            torch.autograd.grad(y, learnt, grad)
        return (y.detach(),)

    return step


def parts() -> SimpleNamespace:
    """PyTorch's layers under the names of `cnnkit.nn`."""
    nn = torch.nn

    class Residual(nn.Module):  # type: ignore[name-defined]
        def __init__(self, body: Any, shortcut: Any = None) -> None:
            super().__init__()
            self.body, self.shortcut = body, shortcut or nn.Identity()

        def forward(self, x: Any) -> Any:
            return self.body(x) + self.shortcut(x)

    same = ("Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "AdaptiveAvgPool2d", "Flatten", "Sequential")
    return SimpleNamespace(Dense=nn.Linear, Residual=Residual, **{name: getattr(nn, name) for name in same})


def numpy_arrays(results: tuple[Any, ...]) -> list[np.ndarray]:
    return [result.numpy() for result in results]


def _tensors(arrays: Arrays, *names: str) -> list[Any]:
    """Tensors of the same memory; what is a tensor already stays one."""
    return [torch.as_tensor(arrays[name]) if name in arrays else None for name in names]


def _per_axis(padding: int | tuple[int, ...], axes: int) -> list[int]:
    return [padding] * axes if isinstance(padding, int) else list(padding)
