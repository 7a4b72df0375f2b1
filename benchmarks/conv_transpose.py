"""Transposed convolution, forward and backward."""

from functools import cache

from . import cases, setting
from .cases import BACKENDS

CASES = list(cases.CONV_TRANSPOSE)


class ConvTranspose(setting.Timed):
    params, param_names, version = (CASES, ["float32"], BACKENDS), ("case", "dtype", "backend"), "1"

    def setup(self, case, dtype, backend):
        setting.choose(backend)
        self.forward, self.backward = _work(case, dtype, backend)

    def time_forward(self, case, dtype, backend):
        self.forward()

    def time_backward(self, case, dtype, backend):
        self.backward()


@cache
def _work(name, dtype, backend):
    cnnkit, case = setting.choose(backend), cases.CONV_TRANSPOSE[name]
    x, weight, bias = (setting.there(backend, each) for each in cases.arrays(case, dtype).values())
    forward, backward = getattr(cnnkit, case.op), getattr(cnnkit, f"{case.op}_backward")
    grad = forward(x, weight, bias, *case.window)
    works = (lambda: forward(x, weight, bias, *case.window)), (lambda: backward(grad, x, weight, *case.window))
    return [setting.ready(backend, work) for work in works]
