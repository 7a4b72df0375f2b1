"""PyTorch: its functions without autograd, and of the way back the same functions that its autograd calls."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkit.cli.bench.cases import Conv, ConvTranspose, Dense, Elementwise, Norm, Pool

torch: Any = importlib.import_module("torch")
F: Any = torch.nn.functional
aten: Any = torch.ops.aten

NAME = "PyTorch"
Arrays = dict[str, np.ndarray]
Work = Callable[[], tuple[Any, ...]]


def use_threads(n: int) -> None:
    torch.set_num_threads(n)
    torch.set_grad_enabled(False)


def conv(case: Conv, arrays: Arrays, direction: str) -> Work:
    x, weight, bias, grad = _tensors(arrays, "x", "weight", "bias", "grad")
    if direction == "forward":
        forward = getattr(F, case.op)
        return lambda: (forward(x, weight, bias, *case.window),)
    axes = len(case.weight) - 2
    stride, padding, dilation = [case.stride] * axes, _per_axis(case.padding, axes), [case.dilation] * axes
    window = ([case.weight[0]], stride, padding, dilation, False, [0] * axes, case.groups, [True] * 3)
    return lambda: aten.convolution_backward(grad, x, weight, *window)


def convtranspose(case: ConvTranspose, arrays: Arrays, direction: str) -> Work:
    x, weight, bias, grad = _tensors(arrays, "x", "weight", "bias", "grad")
    if direction == "forward":
        forward = getattr(F, case.op)
        return lambda: (forward(x, weight, bias, *case.window),)
    stride, padding, output_padding = ([number] * (len(case.weight) - 2) for number in case.window)
    window = ([case.weight[1]], stride, padding, [1] * len(stride), True, output_padding, 1, [True] * 3)
    return lambda: aten.convolution_backward(grad, x, weight, *window)


def dense(case: Dense, arrays: Arrays, direction: str) -> Work:
    x, weight, bias, grad = _tensors(arrays, "x", "weight", "bias", "grad")
    if direction == "forward":
        return lambda: (F.linear(x, weight, bias),)
    return lambda: (grad @ weight, grad.T @ x, grad.sum(0))


def pool(case: Pool, arrays: Arrays, direction: str) -> Work:
    x, grad = _tensors(arrays, "x", "grad")
    if direction == "forward":
        forward = getattr(F, case.op)
        return lambda: (forward(x, *case.window),)
    window = [[size] * 2 for size in case.window]
    if case.kind == "avg":
        return lambda: (aten.avg_pool2d_backward(grad, x, *window, False, True, None),)
    _, indices = F.max_pool2d(x, *case.window, return_indices=True)
    return lambda: (aten.max_pool2d_with_indices_backward(grad, x, *window, [1, 1], False, indices),)


def elementwise(case: Elementwise, arrays: Arrays, direction: str) -> Work:
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


def norm(case: Norm, arrays: Arrays, direction: str) -> Work:
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


def numpy_arrays(results: tuple[Any, ...]) -> list[np.ndarray]:
    return [result.numpy() for result in results]


def _tensors(arrays: Arrays, *names: str) -> list[Any]:
    """Tensors of the same memory."""
    return [torch.from_numpy(arrays[name]) if name in arrays else None for name in names]


def _per_axis(padding: int | tuple[int, ...], axes: int) -> list[int]:
    return [padding] * axes if isinstance(padding, int) else list(padding)
