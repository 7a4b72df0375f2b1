"""Dense layers, forward and backward."""

from functools import cache

from . import cases, setting
from .cases import BACKENDS

CASES = ["lenet_dense_120", "vgg_dense_4096", "resnet_dense_1000"]


class Dense(setting.Timed):
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
    cnnkit, case = setting.choose(backend), cases.DENSE[name]
    x, weight, bias = (setting.there(backend, each) for each in cases.arrays(case, dtype).values())
    grad = cnnkit.dense(x, weight, bias)
    works = (lambda: cnnkit.dense(x, weight, bias)), (lambda: cnnkit.dense_backward(grad, x, weight))
    return [setting.ready(backend, work) for work in works]
