"""What the CUDA room would start on a GPU, as it is told CuPy's driver: names, sizes, streams, and every argument.

It takes the place of CuPy's driver in the stand-in for CuPy. A kernel's parameters are read from the addresses that the
launch was given, at the moment of the call, as the driver does.
"""

import ctypes
import importlib
import sys
import types
from typing import Any, NamedTuple

import pytest
import strict_cupy

from cnnkit import dispatch

READ = {"P": ctypes.c_void_p, "i": ctypes.c_int32, "q": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}
SHARED = 8  # the number of the driver's attribute for dynamic shared memory


class Launch(NamedTuple):
    """One call of the driver."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    stream: int
    arguments: tuple[Any, ...]


class Recorder:
    """The driver. `codes` is what was loaded, in order: (kernel, dtype, capability)."""

    def __init__(self, monkeypatch):
        self.cupy = strict_cupy.install(monkeypatch)
        pytest.importorskip("numba.cuda", reason="this Numba has no cuda module", exc_type=ImportError)
        for name in [name for name in sys.modules if name.startswith("cnnkit.rooms.cuda")]:
            monkeypatch.delitem(sys.modules, name)
        self.launch = importlib.import_module("cnnkit.rooms.cuda.launch")
        self.compiler = self.launch.compiler
        monkeypatch.setattr(self.compiler, "code", self._code)
        monkeypatch.setattr(dispatch, "_why_no_kernels", lambda cupy: "")
        self.launched, self.codes, self.functions, self.most_shared = [], [], [], {}
        self.stream = strict_cupy.Stream(7)
        cuda = self.cupy.cuda
        cuda.get_current_stream = lambda: self.stream
        cuda.driver = types.SimpleNamespace(
            launchKernel=self._launch,
            funcSetAttribute=self._set,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=SHARED,
        )
        cuda.function = types.SimpleNamespace(Module=lambda: Module(self))

    def _code(self, name, dtype, capability):
        self.codes.append((name, dtype, capability))
        return f"{name} of {dtype}".encode()

    def _set(self, function, attribute, value):
        assert attribute == SHARED
        self.most_shared[self.functions[function - 1][0]] = value

    def _launch(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        name, dtype = self.functions[function - 1]
        letters = self.compiler.layout(name, dtype)
        places = (ctypes.c_void_p * len(letters)).from_address(parameters)
        arguments = tuple(READ[one].from_address(place).value for one, place in zip(letters, places, strict=True))
        assert extra == 0
        self.launched.append(Launch(name, (gx, gy, gz), (bx, by, bz), shared, stream, arguments))


class Module:
    """Machine code that was loaded."""

    def __init__(self, recorder):
        self.recorder = recorder

    def load(self, code):
        self.name, self.dtype = code.decode().split(" of ")

    def get_function(self, entry):
        assert entry == f"cnnkit_{self.name}"
        self.recorder.functions.append((self.name, self.dtype))
        return types.SimpleNamespace(ptr=len(self.recorder.functions))
