"""Pooling, forward and backward."""

from functools import cache

from . import cases, setting
from .cases import BACKENDS

CASES = ["resnet_max_pool_3x3", "vgg_max_pool_2x2", "inception_avg_pool_3x3", "resnet_avg_pool_7x7"]


class Pool(setting.Timed):
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
    cnnkit, case = setting.choose(backend), cases.POOL[name]
    x = setting.there(backend, cases.arrays(case, dtype)["x"])
    forward, backward = getattr(cnnkit, case.op), getattr(cnnkit, f"{case.op}_backward")
    if case.kind == "avg":
        grad, rest = forward(x, *case.window), (x.shape, *case.window)
    else:
        grad, indices = forward(x, *case.window, return_indices=True)
        rest = (indices, x.shape)
    works = (lambda: forward(x, *case.window)), (lambda: backward(grad, *rest))
    return [setting.ready(backend, work) for work in works]
