"""What happens to a sum before it is stored; the formulas are those of `rooms/array/activation.py`."""

import math
from typing import Any

from numba import cuda

part: Any = cuda.jit(device=True, inline="always")  # see `places`
CODES = {None: 0, "relu": 1, "leaky_relu": 2, "elu": 3, "gelu": 4, "gelu_tanh": 5, "silu": 6, "sigmoid": 7, "tanh": 8}
FAR, FAR_NORMAL = 1000.0, 50.0  # beyond, a logistic function and the normal distribution are 0 or 1
ROOT, CUBIC = 0.7978845608028654, 0.044715  # sqrt(2 / pi); Hendrycks and Gimpel 2016, arXiv:1606.08415


def activation(real: Any) -> Any:
    """The function that applies any of them, known by its code."""

    @part
    def logistic(value):
        e = math.exp(-abs(value))
        above = e
        if value > real(0):
            above = real(1)
        return above / (real(1) + e)

    @part
    def activated(code, value, parameter):
        if code == 1:
            if value < real(0):
                value = real(0)
        elif code == 2:
            if not value > real(0):
                value = value * parameter
        elif code == 3:
            if not value > real(0):
                value = parameter * math.expm1(value)
        elif code == 4:
            near = value
            if value < real(-FAR_NORMAL):
                near = real(-FAR_NORMAL)
            value = near * (real(0.5) * math.erfc(-near * real(math.sqrt(0.5))))
        elif code == 5:
            near = value
            if value < real(-FAR_NORMAL):
                near = real(-FAR_NORMAL)
            inner = near
            if value > real(FAR_NORMAL):
                inner = real(FAR_NORMAL)
            value = near * logistic(real(2 * ROOT) * (inner + real(CUBIC) * inner * inner * inner))
        elif code == 6:
            near = value
            if value < real(-FAR):
                near = real(-FAR)
            value = near * logistic(value)
        elif code == 7:
            value = logistic(value)
        elif code == 8:
            value = math.tanh(value)
        return value

    return activated
