"""cnnkit itself."""

from collections.abc import Callable
from typing import Any

import numpy as np

import cnnkit
from cnnkit.cli.bench import cases, networks

NAME = "cnnkit"
Arrays = dict[str, np.ndarray]
Work = Callable[[], tuple[Any, ...]]


def use_threads(n: int) -> None:
    cnnkit.set_num_threads(n)


def conv(case: cases.Conv | cases.ConvTranspose, arrays: Arrays, direction: str) -> Work:
    x, weight, bias = arrays["x"], arrays["weight"], arrays["bias"]
    forward, backward = getattr(cnnkit, case.op), getattr(cnnkit, f"{case.op}_backward")
    if direction == "forward":
        return lambda: (forward(x, weight, bias, *case.window),)
    return lambda: tuple(backward(arrays["grad"], x, weight, *case.window))


convtranspose = conv


def dense(case: cases.Dense, arrays: Arrays, direction: str) -> Work:
    x, weight, bias = arrays["x"], arrays["weight"], arrays["bias"]
    if direction == "forward":
        return lambda: (cnnkit.dense(x, weight, bias),)
    return lambda: tuple(cnnkit.dense_backward(arrays["grad"], x, weight))


def pool(case: cases.Pool, arrays: Arrays, direction: str) -> Work:
    x = arrays["x"]
    forward, backward = getattr(cnnkit, case.op), getattr(cnnkit, f"{case.op}_backward")
    if direction == "forward":
        return lambda: (forward(x, *case.window),)
    if case.kind == "avg":
        return lambda: (backward(arrays["grad"], x.shape, *case.window),)
    _, indices = forward(x, *case.window, return_indices=True)
    return lambda: (backward(arrays["grad"], indices, x.shape),)


def adaptivepool(case: cases.AdaptivePool, arrays: Arrays, direction: str) -> Work:
    x, size = arrays["x"], case.output_size
    forward, backward = getattr(cnnkit, case.op), getattr(cnnkit, f"{case.op}_backward")
    if direction == "forward":
        return lambda: (forward(x, size),)
    if case.kind == "avg":
        return lambda: (backward(arrays["grad"], x.shape),)
    _, indices = forward(x, size, return_indices=True)
    return lambda: (backward(arrays["grad"], indices, x.shape),)


def lppool(case: cases.LPPool, arrays: Arrays, direction: str) -> Work:
    x = arrays["x"]
    if direction == "forward":
        return lambda: (cnnkit.lp_pool2d(x, *case.window),)
    return lambda: (cnnkit.lp_pool2d_backward(arrays["grad"], x, *case.window),)


def unpool(case: cases.Unpool, arrays: Arrays, direction: str) -> Work:
    x, indices = arrays["x"], arrays["indices"]
    if direction == "forward":
        return lambda: (cnnkit.max_unpool2d(x, indices, case.kernel_size),)
    return lambda: (cnnkit.max_unpool2d_backward(arrays["grad"], indices),)


def elementwise(case: cases.Elementwise, arrays: Arrays, direction: str) -> Work:
    x = arrays["x"]
    parameters = (-1,) if case.op == "softmax" else ()
    if direction == "forward":
        return lambda: (getattr(cnnkit, case.op)(x, *parameters),)
    return lambda: (getattr(cnnkit, f"{case.op}_backward")(arrays["grad"], x, *parameters),)


def norm(case: cases.Norm, arrays: Arrays, direction: str) -> Work:
    x, gamma, beta = arrays["x"], arrays["gamma"], arrays["beta"]
    forward, backward = getattr(cnnkit, case.op), getattr(cnnkit, f"{case.op}_backward")
    if case.op == "batch_norm":
        if direction == "forward":
            return lambda: (forward(x, gamma, beta, None, None, training=True),)
        return lambda: tuple(backward(arrays["grad"], x, gamma, None, None, training=True))
    over = case.groups or case.channels
    if direction == "forward":
        return lambda: (forward(x, over, gamma, beta),)
    return lambda: tuple(backward(arrays["grad"], x, over, gamma))


def network(case: cases.Network, arrays: Arrays, direction: str) -> Work:
    model, x = getattr(networks, case.op)(cnnkit.nn), arrays["x"]
    for name, array in model.state_dict().items():
        array[...] = networks.numbers(name, array.shape)
    if direction == "forward":
        fused = cnnkit.nn.fuse(model)
        return lambda: (fused(x),)

    def step() -> tuple[Any, ...]:
        y, pullback = model.forward(x)
        pullback(arrays["grad"])
        return (y,)

    return step


def numpy_arrays(results: tuple[Any, ...]) -> list[np.ndarray]:
    return list(results)
