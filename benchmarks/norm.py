"""Normalisation in training, forward and backward, channels first and last."""

from functools import cache

from . import cases, setting
from .cases import BACKENDS

LAYERS = {  # and whether their channels lie closest together
    "resnet_batch_norm_64": ("resnet_batch_norm_64", False),
    "resnet_batch_norm_64_last": ("resnet_batch_norm_64", True),
    "resnet_batch_norm_256": ("resnet_batch_norm_256", False),
    "resnet_batch_norm_256_last": ("resnet_batch_norm_256", True),
    "transformer_layer_norm_768": ("transformer_layer_norm_768", False),
    "detector_group_norm_256": ("detector_group_norm_256", False),
    "detector_group_norm_256_last": ("detector_group_norm_256", True),
}


class Norm(setting.Timed):
    params = (list(LAYERS), ["forward", "backward"], BACKENDS)
    param_names, version = ("layer", "direction", "backend"), "1"

    def setup(self, layer, direction, backend):
        setting.choose(backend)
        self.run = _work(layer, direction, backend)

    def time_norm(self, layer, direction, backend):
        self.run()


@cache
def _work(layer, direction, backend):
    name, last = LAYERS[layer]
    cnnkit, case = setting.choose(backend), cases.NORM[name]
    arrays = cases.arrays(case, "float32")
    if last:
        arrays["x"] = arrays["x"].transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    x, gamma, beta = (setting.there(backend, each) for each in arrays.values())
    forward, backward = getattr(cnnkit, case.op), getattr(cnnkit, f"{case.op}_backward")
    if case.op == "batch_norm":
        given, more = ((None, None), {"training": True})
        work = {
            "forward": lambda: forward(x, gamma, beta, *given, **more),
            "backward": lambda: backward(x, x, gamma, *given, **more),
        }
    else:
        over = case.groups or case.channels
        work = {"forward": lambda: forward(x, over, gamma, beta), "backward": lambda: backward(x, x, over, gamma)}
    return setting.ready(backend, work[direction])
