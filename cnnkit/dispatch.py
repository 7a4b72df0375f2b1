"""Which backend runs: a table of rooms, and nothing else.

A backend of an op is a module that has a function of that name. The first row of `BACKENDS` whose arrays are the
caller's, whose needs can be imported and whose module has the op, runs it. A kernel that fails, fails: only a missing
name or a missing dependency makes the next row's turn.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cnnkit import arrays, halves


class Backend(NamedTuple):
    """A room: the arrays it takes, its module, what it must be able to import, and how to get that."""

    family: str
    module: str
    needs: tuple[str, ...]
    remedy: str


BACKENDS = {  # in order of preference
    "numba": Backend("numpy", "cnnkit.rooms.numba", ("numba",), "pip install numba"),
    "numpy": Backend("numpy", "cnnkit.rooms.array", (), ""),
    "cuda": Backend(
        "cupy",
        "cnnkit.rooms.cuda",
        ("cupy", "numba"),
        'pip install "cnnkit[cuda13]" or "cnnkit[cuda12]"',
    ),
    "cupy": Backend("cupy", "cnnkit.rooms.array", ("cupy",), 'pip install "cnnkit[cuda13]" or "cnnkit[cuda12]"'),
}

OLDEST_GPU = 80  # compute capability 8.0
DEVICES = {"cpu": "numpy", "cuda": "cupy"}  # where a model can be, and whose arrays it has there

_chosen: ContextVar[str | None] = ContextVar("backend", default=os.environ.get("CNNKIT_BACKEND") or None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run everything inside the ``with`` block on exactly this backend, with no fallback.

    The choice holds for the current thread (and asyncio task), as that of `cnnkit.options`. The environment variable
    ``CNNKIT_BACKEND`` makes it for a whole process.

    Parameters
    ----------
    name : {"numba", "numpy", "cuda", "cupy"}

    Raises
    ------
    ValueError
        If there is no backend of this name.
    ImportError
        If the backend cannot run here, with the reason.

    Examples
    --------
    >>> import numpy as np
    >>> import cnnkit
    >>> with cnnkit.use_backend("numpy"):
    ...     cnnkit.relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    _room(_known(name, "use_backend"))
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def backends() -> dict[str, tuple[bool, str]]:
    """Say which backends can run here, and of the others why not.

    Returns
    -------
    dict
        ``{name: (available, why not)}``, in order of preference.

    Examples
    --------
    >>> import cnnkit
    >>> cnnkit.backends()["numpy"]
    (True, '')
    """
    return {name: (not why_not(name), why_not(name)) for name in BACKENDS}


def implementation(op: str, array: arrays.Array) -> Callable[..., Any]:
    """The function that runs `op` on `array`."""
    family = "numpy" if type(array) is np.ndarray else arrays.family(array)
    run = _find(op, family, _chosen.get())
    if array.itemsize == 2 and arrays.is_half(array.dtype) and not hasattr(run, "takes_halves"):
        ways = (_find(name, family, _chosen.get()) for name in ("widen", "narrow"))
        return halves.in_float32(op, run, *ways)
    return run


@lru_cache
def _find(op: str, family: str, chosen: str | None) -> Callable[..., Any]:
    if chosen is not None:
        if BACKENDS[_known(chosen, "CNNKIT_BACKEND")].family != family:
            raise TypeError(
                f"backend {chosen!r} takes {BACKENDS[chosen].family} arrays, but was given a {family} array"
            )
        names = [chosen]
    else:
        names = [name for name, backend in BACKENDS.items() if backend.family == family and not why_not(name)]
    for name in names:
        if hasattr(_room(name), op):
            return getattr(_room(name), op)
    able = [name for name in BACKENDS if not why_not(name) and hasattr(_room(name), op)]
    raise NotImplementedError(f"{op} is not made for the backend {chosen!r}, but for: {', '.join(able)}")


def mover(device: str) -> Callable[[arrays.Array], arrays.Array]:
    """What makes a copy of an array on a device, wherever the array is."""
    if not isinstance(device, str) or device not in DEVICES:
        raise ValueError(f"device is {device!r}, but the devices are {', '.join(map(repr, DEVICES))}")
    if device == "cpu":
        return lambda array: arrays.on_host(array).copy()
    _room(DEVICES[device])
    return importlib.import_module("cupy").array


def current_backend(family: str = "numpy") -> str:
    """The backend that the next call on arrays of this library runs on."""
    chosen = _chosen.get()
    return chosen or next(name for name, row in BACKENDS.items() if row.family == family and not why_not(name))


@lru_cache
def why_not(name: str) -> str:
    """The reason why a backend cannot run here, in one sentence; empty if it can."""
    backend = BACKENDS[name]
    try:
        needed = [importlib.import_module(module) for module in backend.needs]
        if backend.family == "cupy":
            return _why_no_gpu(needed[0]) or (_why_no_kernels(needed[0]) if name == "cuda" else "")
    except ImportError as error:
        return f"{_sentence(error)}: {backend.remedy}"
    return ""


def _why_no_gpu(cupy: Any) -> str:
    runtime = cupy.cuda.runtime
    if not runtime.driverGetVersion():
        return "CuPy finds no NVIDIA driver"
    if old := _too_old(runtime.driverGetVersion(), runtime.runtimeGetVersion() // 1000 * 1000, "CuPy is"):
        return old
    if not cupy.cuda.is_available():
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        return "the driver shows no GPU" + ("" if shown is None else f", for CUDA_VISIBLE_DEVICES is {shown!r}")
    return ""


def _why_no_kernels(cupy: Any) -> str:
    digits = cupy.cuda.Device().compute_capability
    capability = int(digits[:-1]), int(digits[-1])
    if int(digits) < OLDEST_GPU:
        return f"the GPU has compute capability {digits[:-1]}.{digits[-1]}, but the CUDA kernels need 8.0 or later"
    compiler = importlib.import_module(f"{BACKENDS['cuda'].module}.compiler")
    if reason := compiler.why_not(capability):
        return reason
    driver = cupy.cuda.runtime.driverGetVersion()
    return _too_old(driver, compiler.driver_needed(capability), "the compiler of kernels is")


def _too_old(driver: int, needed: int, whose: str) -> str:
    """Versions of CUDA are counted by thousands and tens."""
    if driver >= needed:
        return ""
    there, wanted = (f"{version // 1000}.{version % 1000 // 10}" for version in (driver, needed))
    other = "nvidia-nvjitlink" if driver // 1000 == needed // 1000 else f'"cnnkit[cuda{driver // 1000}]"'
    return f"the driver is for CUDA {there}, but {whose} for CUDA {wanted}: update the driver, or pip install {other}"


def _sentence(error: ImportError) -> str:
    """What an import failed of; CuPy frames a page, whose last line is the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =")] or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0].rstrip('.')} ({lines[-1]})"


def _room(name: str) -> ModuleType:
    if why_not(name):
        raise ImportError(f"backend {name!r} is not available: {why_not(name)}")
    return importlib.import_module(BACKENDS[name].module)


def _known(name: Any, source: str) -> str:
    if not isinstance(name, str) or name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}, but the backends are {', '.join(map(repr, BACKENDS))}")
    return name
