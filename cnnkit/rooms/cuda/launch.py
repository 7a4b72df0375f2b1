"""Kernels on the GPU: loaded by CuPy once for each device, started on its current stream.

CuPy is imported when there is something to start: kernels can be compiled ahead where there is none. Its own way of
starting takes arguments as NumPy's scalars, some microseconds for forty of them. Here they are packed into one piece
of memory that a thread keeps for each kernel, and CuPy's driver is handed the address of each.
"""

import ctypes
import struct
import threading
from functools import lru_cache
from typing import Any

import numpy as np

from cnnkit.rooms.cuda import compiler, problems

PLAIN = int, float, np.generic  # numbers; all other arguments are arrays


class _Thread(threading.local):
    """What each thread has for itself."""

    def __init__(self) -> None:
        self.starts: dict[tuple[str, Any, int], Start] = {}


_thread = _Thread()


def run(name: str, dtype: Any, grid: tuple[int, int, int], *args: Any) -> None:
    """Start a kernel. Arrays are given as what they point to, tuples number by number."""
    import cupy

    key = name, dtype, cupy.cuda.runtime.getDevice()
    start = _thread.starts.get(key)
    if start is None:
        start = _thread.starts[key] = Start(*key)
    start(grid, args)


class Start:
    """A kernel on a device as one thread starts it: where its arguments lie, and the call."""

    def __init__(self, name: str, dtype: Any, device: int) -> None:
        import cupy

        letters = compiler.layout(name, dtype.name)
        self._pack = struct.Struct(letters).pack_into
        self._memory = ctypes.create_string_buffer(struct.calcsize(letters))
        offsets = (struct.calcsize(letters[: i + 1]) - struct.calcsize(one) for i, one in enumerate(letters))
        self._addresses = (ctypes.c_void_p * len(letters))(*(ctypes.addressof(self._memory) + one for one in offsets))
        self._parameters = ctypes.addressof(self._addresses)
        self._kernel = _function(name, dtype.name, device)
        kernel = compiler.KERNELS[name]
        self._rest = kernel.threads, 1, 1, kernel.shared
        self._launch, self._stream = cupy.cuda.driver.launchKernel, cupy.cuda.get_current_stream
        cupy.cuda.runtime.memGetInfo()  # makes the device's context the thread's, as CuPy does before it starts one

    def __call__(self, grid: tuple[int, int, int], args: tuple[Any, ...]) -> None:
        flat: list[Any] = []
        for one in args:
            if isinstance(one, tuple):
                flat += one
            else:
                flat.append(one if isinstance(one, PLAIN) else one.data.ptr)
        self._pack(self._memory, 0, *flat)
        self._launch(self._kernel.ptr, *grid, *self._rest, self._stream().ptr, self._parameters, 0)


@lru_cache
def _function(name: str, dtype: str, device: int) -> Any:
    import cupy

    digits = cupy.cuda.Device(device).compute_capability
    module = cupy.cuda.function.Module()
    module.load(compiler.code(name, dtype, (int(digits[:-1]), int(digits[-1]))))
    function = module.get_function(f"cnnkit_{name}")
    driver, shared = cupy.cuda.driver, compiler.KERNELS[name].shared
    if shared:
        driver.funcSetAttribute(function.ptr, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
    return function


def tables(plan: Any, back: bool, divisors: Any) -> tuple[Any, Any]:
    """Tables of windows on the current device, whichever stream is the next to read them."""
    import cupy

    there = _tables(plan, back, divisors, cupy.cuda.runtime.getDevice())
    return there.ready(cupy.cuda.get_current_stream())


class Tables:
    """Arrays on their way to the GPU: until they have arrived, other streams wait for them; the host does not.

    Events may not be asked while a graph is captured. It begins after a call of its kind: they were sent before.
    """

    def __init__(self, arrays: tuple[Any, ...], stream: Any) -> None:
        self._arrays, self._sent = arrays, stream.record()

    def ready(self, stream: Any) -> tuple[Any, ...]:
        if self._sent is not None and not stream.is_capturing:
            if self._sent.done:
                self._sent = None
            else:
                stream.wait_event(self._sent)
        return self._arrays


@lru_cache(128)
def _tables(plan: Any, back: bool, divisors: Any, device: int) -> Tables:
    import cupy

    found, factors = problems.windows(plan, back, divisors)
    there = cupy.asarray(np.array(found, np.int32)), cupy.asarray(np.array(factors, np.float64))
    return Tables(there, cupy.cuda.get_current_stream())
