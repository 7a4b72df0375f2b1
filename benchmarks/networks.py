"""Whole networks on one image of 224x224: time and memory of inference."""

from functools import cache

from . import cases, setting


class Inference(setting.Timed):
    params, param_names, version = (list(cases.NETWORK), cases.BACKENDS), ("network", "backend"), "1"
    repeat, warmup_time = (2, 20, 0.5), 0

    def setup(self, network, backend):
        setting.choose(backend)
        self.run = _inference(network, backend)

    def time_inference(self, network, backend):
        self.run()

    def peakmem_inference(self, network, backend):
        self.run()


@cache
def _inference(name, backend):
    cnnkit, case = setting.choose(backend), cases.NETWORK[name]
    model = getattr(cases.networks, case.op)(cnnkit.nn)
    for key, array in model.state_dict().items():
        array[...] = cases.networks.numbers(key, array.shape)
    fused = cnnkit.nn.fuse(model)
    model = fused.to("cuda") if backend in setting.ON_GPU else fused
    x = setting.there(backend, cases.arrays(case)["x"][:1])
    return setting.ready(backend, lambda: model(x))
