"""What all suites share: the backend chosen, arrays where it wants them, work done and finished.

asv runs `setup` before every timed call, so that what is made here is kept, and looked up the next time. The first call
of a piece of work, which compiles, is made here too, and never timed.
"""

import atexit
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

from . import cases

_chosen = ExitStack()  # holds the choice: a context that nobody holds ends at once
atexit.register(_chosen.close)
ON_GPU = ("cuda", "cupy")
GRADIENTS = {"forward": (), "backward_x": ("x",), "backward_weight": ("weight",), "backward": ("x", "weight", "bias")}


class Timed:
    """How long asv measures: some tenths of a second for each set of parameters, in one process."""

    rounds = 1
    repeat = (5, 100, 0.4)  # samples at least, at most, seconds
    number = 1
    warmup_time = 0.1
    timeout = 60


def choose(backend: str) -> Any:
    """Use exactly this backend from now on, or fail; cnnkit.

    On one thread, for two wait for each other when anything else runs; `conv.Threads` asks for more.
    """
    cnnkit = importlib.import_module("cnnkit")
    _chosen.close()
    _chosen.enter_context(cnnkit.use_backend(backend))
    cnnkit.set_num_threads(1)
    return cnnkit


def there(backend: str, array: Any) -> Any:
    """The array in the memory of the backend."""
    return importlib.import_module("cupy").asarray(array) if backend in ON_GPU else array


def here(array: Any) -> Any:
    """The array as NumPy's."""
    return array.get() if hasattr(array, "get") else array


def finished(backend: str, work: Callable[[], Any]) -> Callable[[], Any]:
    """Work that has ended when it returns: a GPU's is waited for."""
    if backend not in ON_GPU:
        return work
    cupy = importlib.import_module("cupy")

    def wait() -> Any:
        result = work()
        cupy.cuda.get_current_stream().synchronize()
        return result

    return wait


def ready(backend: str, work: Callable[[], Any]) -> Callable[[], Any]:
    """The work after a first call."""
    work = finished(backend, work)
    work()
    return work


@cache
def conv(name: str, dtype: str, backend: str, direction: str) -> Callable[[], Any]:
    """A convolution forward, or its gradients, ready to be timed."""
    return ready(backend, conv_work(name, dtype, backend, direction))


def conv_work(name: str, dtype: str, backend: str, direction: str) -> Callable[[], Any]:
    """The same, launched and not waited for."""
    cnnkit, case = choose(backend), cases.CONV[name]
    x, weight, bias = (there(backend, each) for each in cases.arrays(case, dtype).values())
    forward, backward = getattr(cnnkit, case.op), getattr(cnnkit, f"{case.op}_backward")
    if direction == "forward":
        return lambda: forward(x, weight, bias, *case.window)
    grad = forward(x, weight, bias, *case.window)
    return lambda: backward(grad, x, weight, *case.window, needs=GRADIENTS[direction])
