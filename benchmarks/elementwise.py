"""Functions of every number, and the loss."""

from functools import cache

import numpy as np

from . import cases, setting
from .cases import BACKENDS

OPS = ["relu", "relu_backward", "gelu", "gelu_backward", "softmax", "cross_entropy"]


class Elementwise(setting.Timed):
    params, param_names, version = (OPS, ["float32"], BACKENDS), ("op", "dtype", "backend"), "1"

    def setup(self, op, dtype, backend):
        setting.choose(backend)
        self.run = _work(op, dtype, backend)

    def time_op(self, op, dtype, backend):
        self.run()


@cache
def _work(op, dtype, backend):
    cnnkit = setting.choose(backend)
    wide, logits = (
        setting.there(backend, cases.arrays(cases.ELEMENTWISE[name], dtype)["x"])
        for name in ("resnet_relu", "imagenet_softmax")
    )
    labels = setting.there(backend, np.arange(len(logits)))
    arguments = {
        "relu": (wide,),
        "relu_backward": (wide, wide),
        "gelu": (wide,),
        "gelu_backward": (wide, wide),
        "softmax": (logits, -1),
        "cross_entropy": (logits, labels),
    }[op]
    return setting.ready(backend, lambda: getattr(cnnkit, op)(*arguments))
