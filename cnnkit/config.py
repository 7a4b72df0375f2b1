"""What a bug report needs: versions, processor, backends, threads, the kernel cache."""

import importlib
import platform
from importlib import metadata
from typing import Any

from cnnkit import dispatch
from cnnkit._version import __version__
from cnnkit.rooms import threads

PACKAGES = ("numpy", "numba", "llvmlite", "cupy-cuda12x", "cupy-cuda13x", "numba-cuda", "ml_dtypes", "torch", "jax")


def show_config() -> None:
    """Print versions, the processor's vector registers, backends, threads and the kernel cache.

    Examples
    --------
    >>> import cnnkit
    >>> cnnkit.show_config()  # doctest: +ELLIPSIS
    cnnkit ...
    """
    for name, value in config().items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, one in value.items():
                print(f"  {key:<12} {one}")
        else:
            print(f"{name:<10} {value}")


def config() -> dict[str, Any]:
    """The same as data."""
    return {
        "cnnkit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "backends": {name: "available" if able else reason for name, (able, reason) in dispatch.backends().items()},
        "threads": threads.get_num_threads(),
        "kernels": _kernels(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _kernels() -> dict[str, Any]:
    """What the CPU room says of itself, where it can run."""
    if dispatch.why_not("numba"):
        return {}
    return importlib.import_module("cnnkit.rooms.numba.machine").describe()
