"""Whole networks, one text for every library: `parts` has its layers, under the names and parameters of `cnnkit.nn`.

This file imports nothing of cnnkit, as `cases.py`.
"""

import zlib
from typing import Any

import numpy as np

RESIDUALS = (  # of MobileNetV2: how much wider inside, channels, how many, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def resnet18(parts: Any, channels: int = 64, classes: int = 1000, stride: int = 2) -> Any:
    """Four stages of two blocks (He et al. 2016, arXiv 1512.03385)."""
    layers = [*conv_norm(parts, 3, channels, 7, stride), parts.ReLU(), parts.MaxPool2d(3, 2, 1)]
    ins = channels
    for stage in range(4):
        for block in range(2):
            outs = channels * 2**stage
            layers += [basic_block(parts, ins, outs, 2 if stage and not block else 1), parts.ReLU()]
            ins = outs
    return parts.Sequential(*layers, *head(parts, ins, classes))


def basic_block(parts: Any, ins: int, outs: int, stride: int) -> Any:
    body = [*conv_norm(parts, ins, outs, 3, stride), parts.ReLU(), *conv_norm(parts, outs, outs, 3, 1)]
    if stride == 1 and ins == outs:
        return parts.Residual(parts.Sequential(*body))
    return parts.Residual(parts.Sequential(*body), parts.Sequential(*conv_norm(parts, ins, outs, 1, stride)))


def mobilenet_v2(parts: Any, residuals: Any = RESIDUALS, first: int = 32, last: int = 1280, classes: int = 1000) -> Any:
    """Inverted residuals around depthwise convolutions (Sandler et al. 2018, arXiv 1801.04381), with plain ReLUs."""
    layers, ins = [*conv_norm(parts, 3, first, 3, 2), parts.ReLU()], first
    for expansion, outs, number, stride in residuals:
        for block in range(number):
            layers.append(inverted_residual(parts, ins, outs, 1 if block else stride, expansion))
            ins = outs
    layers += [*conv_norm(parts, ins, last, 1, 1), parts.ReLU()]
    return parts.Sequential(*layers, *head(parts, last, classes))


def inverted_residual(parts: Any, ins: int, outs: int, stride: int, expansion: int) -> Any:
    wide = expansion * ins
    widened = [*conv_norm(parts, ins, wide, 1, 1), parts.ReLU()] if expansion > 1 else []
    body = parts.Sequential(
        *widened,
        *(*conv_norm(parts, wide, wide, 3, stride, groups=wide), parts.ReLU()),
        *conv_norm(parts, wide, outs, 1, 1),
    )
    return parts.Residual(body) if stride == 1 and ins == outs else body


def conv_norm(parts: Any, ins: int, outs: int, kernel: int, stride: int, groups: int = 1) -> tuple[Any, Any]:
    return parts.Conv2d(ins, outs, kernel, stride, kernel // 2, 1, groups, bias=False), parts.BatchNorm2d(outs)


def head(parts: Any, channels: int, classes: int) -> tuple[Any, Any, Any]:
    return parts.AdaptiveAvgPool2d(1), parts.Flatten(), parts.Dense(channels, classes)


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What a parameter or a running statistic is in the race: the same in every library, by its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if name.endswith(("weight", "running_var")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.normal(0, 0.1, shape).astype(np.float32)
