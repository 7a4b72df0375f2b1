"""The main job: the convolutional network with a dense head, on the built-in digits."""

from functools import cache

from . import setting
from .cases import BACKENDS

BATCH = 32


class Training(setting.Timed):
    params, param_names, version = (BACKENDS,), ("backend",), "1"
    repeat, warmup_time = (2, 20, 0.5), 0

    def setup(self, backend):
        setting.choose(backend)
        self.step, self.epoch = _step(backend), _epoch(backend)

    def time_step(self, backend):
        self.step()

    def time_epoch(self, backend):
        self.epoch()


class Learning:
    params, param_names, timeout = (BACKENDS,), ("backend",), 60

    def track_test_error(self, backend):
        """The fraction of test images that is wrong after an epoch."""
        setting.choose(backend)
        model, train, test = _problem(backend)
        return 1 - _fit(model, train, test).val_accuracy[-1]

    track_test_error.unit, track_test_error.version = "fraction", "1"


@cache
def _step(backend):
    model, train, _ = _problem(backend)
    batch = [each[:BATCH] for each in train]
    return setting.ready(backend, lambda: _fit(model, batch))


@cache
def _epoch(backend):
    """Not run beforehand: an epoch is long, and a step has compiled what it needs."""
    model, train, _ = _problem(backend)
    return setting.finished(backend, lambda: _fit(model, train))


def _problem(backend):
    """The network with its first weights, and images with their labels to learn and to be tested on."""
    cnnkit = setting.choose(backend)
    nn = cnnkit.nn
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2, rng=0), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1, rng=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dense(512, 10, rng=2)),
    )
    parts = cnnkit.datasets.split(cnnkit.datasets.digits(16), 0.2, seed=0)
    return model, *([setting.there(backend, each) for each in part] for part in parts)


def _fit(model, train, test=None):
    from cnnkit import nn, optim

    adam = optim.Adam(2e-3)
    return nn.fit(model, train, epochs=1, batch_size=BATCH, optimizer=adam, validation=test, progress=False)
