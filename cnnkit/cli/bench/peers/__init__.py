"""What cnnkit is raced against: one file for each library, cnnkit's own among them.

A peer is a module with ``NAME``, ``use_threads(n)``, and functions named after the classes of `cases` in lower case,
with the parameters ``(case, arrays, direction)``. Each returns a function without arguments that does the work and
returns its results as a tuple, or None where the library cannot take part; ``numpy_arrays(results)`` brings those home.
A peer's library is an optional one, so it is imported by name when its file is.
"""

import importlib
import importlib.util
from types import ModuleType

FILES = {"pytorch": ("torch",), "onnx_runtime": ("onnxruntime", "onnx"), "jax_xla": ("jax",)}  # and what each needs


def installed() -> list[ModuleType]:
    """The peers that can take part here."""
    return [importlib.import_module(f"{__name__}.{name}") for name, needs in FILES.items() if not _lacking(needs)]


def missing() -> list[str]:
    """Of the others, why not."""
    lacking = {name: _lacking(needs) for name, needs in FILES.items()}
    return [f"{name}, for lack of {' and '.join(needs)}" for name, needs in lacking.items() if needs]


def _lacking(needs: tuple[str, ...]) -> list[str]:
    return [need for need in needs if importlib.util.find_spec(need) is None]
