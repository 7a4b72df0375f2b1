"""JAX: compiled by XLA, which takes its number of threads from `environment` when it is imported."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkit.cli.bench import cases

jax: Any = importlib.import_module("jax")
lax: Any = jax.lax
jnp: Any = jax.numpy

NAME = "JAX"
Arrays = dict[str, np.ndarray]
Work = Callable[[], tuple[Any, ...]]


def use_threads(n: int) -> None:
    """Nothing: see `race.environment`."""


def conv(case: cases.Conv, arrays: Arrays, direction: str) -> Work:
    axes = len(case.weight) - 2
    pads = [case.padding] * axes if isinstance(case.padding, int) else case.padding
    window = {"window_strides": [case.stride] * axes, "padding": [(pad, pad) for pad in pads]}

    def layer(x: Any, weight: Any, bias: Any) -> Any:
        dilation = [case.dilation] * axes
        y = lax.conv_general_dilated(x, weight, rhs_dilation=dilation, feature_group_count=case.groups, **window)
        return y + bias.reshape(-1, *(1,) * axes)

    return _work(layer, arrays, direction, "x", "weight", "bias")


def convtranspose(case: cases.ConvTranspose, arrays: Arrays, direction: str) -> Work:
    """A convolution of x with zeros between its numbers, the kernel flipped and its channels exchanged."""
    axes = tuple(range(2, len(case.weight)))
    pads = [(size - 1 - case.padding, size - 1 - case.padding + case.output_padding) for size in case.weight[2:]]
    window = {"window_strides": [1] * len(axes), "padding": pads, "lhs_dilation": [case.stride] * len(axes)}

    def layer(x: Any, weight: Any, bias: Any) -> Any:
        flipped = jnp.flip(weight, axes).swapaxes(0, 1)
        return lax.conv_general_dilated(x, flipped, **window) + bias.reshape(-1, *(1 for _ in axes))

    return _work(layer, arrays, direction, "x", "weight", "bias")


def dense(case: cases.Dense, arrays: Arrays, direction: str) -> Work:
    return _work(lambda x, weight, bias: x @ weight.T + bias, arrays, direction, "x", "weight", "bias")


def pool(case: cases.Pool, arrays: Arrays, direction: str) -> Work:
    kernel, stride = ((1, 1, n, n) for n in (case.kernel_size, case.stride))
    pads = ((0, 0), (0, 0), *[(case.padding, case.padding)] * 2)
    if case.kind == "max":
        return _work(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, kernel, stride, pads), arrays, direction, "x")
    area = case.kernel_size**2
    return _work(lambda x: lax.reduce_window(x, 0.0, lax.add, kernel, stride, pads) / area, arrays, direction, "x")


def adaptivepool(case: cases.AdaptivePool, arrays: Arrays, direction: str) -> None:
    """Nothing: it has none."""


def lppool(case: cases.LPPool, arrays: Arrays, direction: str) -> None:
    """Nothing: not raced."""


def unpool(case: cases.Unpool, arrays: Arrays, direction: str) -> None:
    """Nothing: not raced."""


def elementwise(case: cases.Elementwise, arrays: Arrays, direction: str) -> Work:
    nn = jax.nn
    functions = {"relu": nn.relu, "silu": nn.silu, "tanh": jnp.tanh, "softmax": nn.softmax}
    functions["gelu"] = lambda x: nn.gelu(x, approximate=False)
    return _work(functions[case.op], arrays, direction, "x")


def norm(case: cases.Norm, arrays: Arrays, direction: str) -> Work | None:
    """Not raced: it has no such function."""
    return None


def network(case: cases.Network, arrays: Arrays, direction: str) -> Work | None:
    """Not raced: it has no layers."""
    return None


def numpy_arrays(results: tuple[Any, ...]) -> list[np.ndarray]:
    return [np.asarray(result) for result in results]


def _work(layer: Callable[..., Any], arrays: Arrays, direction: str, *names: str) -> Work:
    given = [jax.device_put(arrays[name]) for name in names]
    if direction == "forward":
        run = jax.jit(lambda *given: (layer(*given),))
    else:
        given.append(jax.device_put(arrays["grad"]))
        run = jax.jit(lambda *given: jax.vjp(layer, *given[:-1])[1](given[-1]))
    return lambda: jax.block_until_ready(run(*given))
