"""Pooling, forward and backward."""

from functools import cache

from . import cases, setting
from .cases import BACKENDS

CASES = ["resnet_max_pool_3x3", "vgg_max_pool_2x2", "inception_avg_pool_3x3", "resnet_avg_pool_7x7"]
OTHERS = ["vgg_adaptive_avg_pool_7", "spp_adaptive_max_pool_7", "global_avg_pool", "lp_pool_3x3", "segnet_unpool_2x2"]


class Pool(setting.Timed):
    params, param_names, version = (CASES, ["float32"], BACKENDS), ("case", "dtype", "backend"), "1"

    def setup(self, case, dtype, backend):
        setting.choose(backend)
        self.forward, self.backward = _work(case, dtype, backend)

    def time_forward(self, case, dtype, backend):
        self.forward()

    def time_backward(self, case, dtype, backend):
        self.backward()


class OtherPools(Pool):
    """Adaptive, Lp and unpooling."""

    params = (OTHERS, ["float32"], BACKENDS)


@cache
def _work(name, dtype, backend):
    cnnkit, case = setting.choose(backend), cases.POOL[name]
    forward, backward = getattr(cnnkit, case.op), getattr(cnnkit, f"{case.op}_backward")
    made = {key: setting.there(backend, array) for key, array in cases.arrays(case, dtype).items()}
    given, rest = _arguments(case, **made)
    grad = forward(*given)
    if getattr(case, "kind", "") == "max":
        grad, indices = forward(*given, return_indices=True)
        rest = (indices, made["x"].shape)
    works = (lambda: forward(*given)), (lambda: backward(grad, *rest))
    return [setting.ready(backend, work) for work in works]


def _arguments(case, x, indices=None):
    """Of the forward, and of the way back behind the gradient."""
    kind = type(case).__name__
    if kind == "AdaptivePool":
        return (x, case.output_size), (x.shape,)
    if kind == "Unpool":
        return (x, indices, case.kernel_size), (indices,)
    return (x, *case.window), (x if kind == "LPPool" else x.shape, *case.window)
