"""Kernels as machine code, without a GPU: the list of them, and all that knows numba-cuda and NVIDIA's linker.

Numba makes PTX for a device, nvJitLink machine code of the PTX. Where nvJitLink is not installed, or does not know the
device, the driver is handed the PTX. `cubins` keeps what was made.
"""

import hashlib
import importlib
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, types

from cnnkit.rooms.cuda import convolve, cubins, matrix, windows

Capability = tuple[int, int]  # of a device: 9.0 is (9, 0)
OWN = {(9, 0)}  # devices with instructions that later ones do not have
RESIDENT = 384  # threads that a multiprocessor must have room for: 65536 registers are 168 for each

TALL = {"float32": 8, "float64": 4}  # rows of `product` a thread: as many as there are registers for
ELEMENTWISE = 128  # threads in a block where each owns one number
NUMBERS = "numbers"  # stands for a pointer to numbers of the kernel's dtype
SUMS, NUMBER = "sums", "number"  # for a pointer to what they are summed in, and for one such number
HALVES = ("float16", "bfloat16")  # pointers to them are pointers to 16 bits
ALL = ("float32", "float64", *HALVES)
TABLE, FACTORS, PLACES = types.CPointer(types.int32), types.CPointer(types.float64), types.CPointer(types.int64)
INT = types.int32


class Kernel(NamedTuple):
    """One kernel: how it is made for a type of number, the types of its arguments, how many threads run it.

    `resident` is how many threads a multiprocessor must have room for, `shared` dynamic shared memory in bytes, beside
    what the kernel declares.
    """

    make: Callable[[Any], Any]
    arguments: tuple[Any, ...]
    threads: int
    dtypes: tuple[str, ...] = ("float32", "float64")
    resident: int = RESIDENT
    shared: int = 0


def _ints(n: int) -> Any:
    return types.UniTuple(INT, n)


STEPS = types.UniTuple(types.int64, 5)
CONV = (NUMBER, _ints(8), _ints(9), _ints(9), STEPS, STEPS, STEPS, types.UniTuple(types.int64, 4))
RADIX, STEP = types.UniTuple(types.int64, 9), types.UniTuple(types.int64, 1)
DEPTHWISE = (NUMBERS, NUMBERS, SUMS, _ints(8), _ints(9), _ints(9), RADIX, INT, STEPS, STEPS, STEPS, STEP)
MATRIX = (_ints(9), NUMBER, RADIX, RADIX, _ints(3), _ints(9), _ints(5), _ints(2), types.UniTuple(types.int64, 7))
TOTALS = (SUMS, NUMBERS, INT, INT, _ints(4), INT, STEP, STEPS, STEPS)
AVERAGES = (NUMBERS, TABLE, FACTORS, NUMBERS, INT, _ints(4), _ints(3), INT, STEPS, STEPS)
MAXIMA_BACK = (NUMBERS, PLACES, NUMBERS, INT, _ints(3), _ints(3), STEPS, STEPS, STEPS)
MAXIMA = (NUMBERS, TABLE, NUMBERS, PLACES, INT, _ints(4), _ints(3), INT, INT, _ints(3), STEPS, STEPS, STEPS)


def _matrix(back: bool, tile: matrix.Tile, dtypes: tuple[str, ...]) -> Kernel:
    arguments = (NUMBERS, NUMBERS, NUMBERS, SUMS if back else NUMBERS, *MATRIX)
    return Kernel(lambda real: matrix.product(str(real), back, tile), arguments, tile.threads, dtypes, 2 * tile.threads)


KERNELS = {
    "averages": Kernel(lambda real: windows.averages(real, False), AVERAGES, ELEMENTWISE, ALL),
    "averages_back": Kernel(lambda real: windows.averages(real, True), AVERAGES, ELEMENTWISE, ALL),
    "maxima": Kernel(windows.maxima, MAXIMA, ELEMENTWISE, ALL),
    "maxima_back": Kernel(windows.maxima_back, MAXIMA_BACK, windows.PLANE, ALL, 5 * windows.PLANE),
    "product": Kernel(lambda real: convolve.product(real, TALL[real.name]), (NUMBERS,) * 4 + CONV, convolve.THREADS),
    "direct": Kernel(convolve.direct, (NUMBERS,) * 4 + (INT, _ints(4), *CONV), ELEMENTWISE, ALL, 640),
    "weight_gradient": Kernel(convolve.weight_gradient, DEPTHWISE, convolve.REDUCERS, ALL, 2 * convolve.REDUCERS),
    "totals": Kernel(convolve.totals, TOTALS, ELEMENTWISE, ALL),
    "matrix": _matrix(False, matrix.WIDE, (*HALVES, "float32")),  # for float32 this is tf32
    "matrix_slim": _matrix(False, matrix.SLIM, (*HALVES, "float32")),
    "matrix_back": _matrix(True, matrix.WIDE, HALVES),
    "matrix_back_slim": _matrix(True, matrix.SLIM, (*HALVES, "float32")),
}


def signature(name: str, dtype: str) -> tuple[Any, ...]:
    """The types of a kernel's arguments."""
    summed = types.float32 if dtype in HALVES else getattr(types, dtype)
    given = {
        NUMBERS: types.CPointer(types.int16 if dtype in HALVES else summed),
        SUMS: types.CPointer(summed),
        NUMBER: summed,
    }
    return tuple(given[one] if isinstance(one, str) else one for one in KERNELS[name].arguments)


def layout(name: str, dtype: str) -> str:
    """The parameters of a kernel as `struct` has them, a letter for each; pointers are addresses, "P"."""
    letters = {types.int32: "i", types.int64: "q", types.float32: "f", types.float64: "d"}
    return "".join(
        letters[one.dtype] * len(one) if isinstance(one, types.UniTuple) else letters.get(one, "P")
        for one in signature(name, dtype)
    )


# ---------------------------------------------------------------- machine code


def code(name: str, dtype: str, capability: Capability) -> bytes:
    """The kernel `name` for numbers of `dtype` on a device: built beforehand, kept on disk, or made now.

    Its entry is called ``cnnkit_NAME``. A device also runs what was built for an older one of its major version.
    """
    major, minor = capability
    for older in range(minor, -1, -1):
        built = cubins.built(_entry(name, dtype, (major, older)))
        if built is not None:
            return built
    made_by = hashlib.sha256(repr(versions()).encode()).hexdigest()[:16]
    return cubins.kept(f"{_entry(name, dtype, capability)}-{made_by}", lambda: machine_code(name, dtype, capability))


def build(name: str, dtype: str, capability: Capability, folder: Path) -> int:
    """Put the machine code of a kernel into a folder for `code` to find, whatever makes kernels there; its bytes."""
    made, _ = link(compile_ptx(name, dtype, capability), capability)
    cubins.write(folder / f"{_entry(name, dtype, capability)}.cubin", made)
    return len(made)


def _entry(name: str, dtype: str, capability: Capability) -> str:
    return f"{name}-{dtype}-{architecture(capability)}-{sources()[:16]}"


def machine_code(name: str, dtype: str, capability: Capability) -> bytes:
    """What a driver takes: machine code, or PTX where there is no linker or it does not know the device."""
    ptx = compile_ptx(name, dtype, capability)
    with suppress(UnknownDeviceError):
        return ptx if linker() is None else link(ptx, capability)[0]
    return ptx


def compile_ptx(name: str, dtype: str, capability: Capability) -> bytes:
    """A kernel's PTX for a device, or for the newest that Numba knows."""
    importlib.import_module("numba_cuda")  # Numba's own CUDA compiler, there without it, is another one
    if not hasattr(np, "row_stack"):  # gone in NumPy 2.5; numba-cuda 0.30 still asks for it
        setattr(np, "row_stack", np.vstack)  # noqa: B010  else the rules rename it
    kernel = KERNELS[name]
    ptx, _ = cuda.compile_ptx(
        kernel.make(dtype if dtype in HALVES else getattr(types, dtype)),
        signature(name, dtype),
        cc=(*capability, "a") if capability in OWN else capability,
        launch_bounds=(kernel.threads, kernel.resident // kernel.threads),
    )
    entry = next(line for line in ptx.splitlines() if ".entry" in line).split(".entry")[1].strip().rstrip("(")
    return ptx.replace(entry, f"cnnkit_{name}").encode()


class UnknownDeviceError(ValueError):
    """nvJitLink makes no code for the device."""


def link(ptx: bytes, capability: Capability) -> tuple[bytes, str]:
    """Machine code, and what the assembler says of it."""
    nvjitlink = linker()
    if nvjitlink is None:
        raise ImportError("cubins are made by nvJitLink, which is not installed: pip install nvidia-nvjitlink")
    try:
        handle = nvjitlink.create(2, [f"-arch={architecture(capability)}", "-verbose"])
    except nvjitlink.nvJitLinkError as error:
        raise UnknownDeviceError(f"nvJitLink knows no {architecture(capability)}") from error
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx, len(ptx), "kernel")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        said = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, said)
    except nvjitlink.nvJitLinkError as error:
        said = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, said)
        raise RuntimeError(f"nvJitLink {'.'.join(map(str, nvjitlink.version()))} refuses PTX: {_text(said)}") from error
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), _text(said)


def _text(said: bytearray) -> str:
    return said.decode(errors="replace").strip("\0\n ")


def architecture(capability: Capability) -> str:
    """How the linker calls a device."""
    return f"sm_{capability[0]}{capability[1]}" + "a" * (capability in OWN)


# ---------------------------------------------------------------- what makes them


@lru_cache
def sources() -> str:
    """A digest of all files that kernels are made from: those of this room that know Numba."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_bytes()
        if b"import numba" in text or b"from numba" in text:
            digest.update(text)
    return digest.hexdigest()


@lru_cache
def linker() -> Any:
    """nvJitLink, or None where it is not installed."""
    with suppress(ImportError, RuntimeError):
        found = importlib.import_module("cuda.bindings.nvjitlink")
        found.version()  # loads it
        return found
    return None


@lru_cache
def versions() -> dict[str, str]:
    """Of everything that makes kernels."""
    found = {}
    for package in ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-cuda-nvcc-cu12"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    if linker() is not None:
        found["nvJitLink"] = ".".join(map(str, linker().version()))
    return found


def why_not(capability: Capability) -> str:
    """Why there are no kernels for a device, in a sentence; empty if there are.

    What is not installed is an ImportError.
    """
    try:
        _first(capability)
    except ImportError:
        raise
    except Exception as error:
        known = {**versions(), "NumPy": np.__version__}
        listed = ", ".join(f"{package} {version}" for package, version in known.items())
        return f"kernels do not compile here ({listed}): {error}"
    return ""


def driver_needed(capability: Capability) -> int:
    """The oldest driver that takes kernels for a device, 13010 being CUDA 13.1: any minor version of machine code."""
    ptx = re.match(rb"(?s)//.*?^\.version (\d+)\.(\d+)$", _first(capability), re.MULTILINE)
    if ptx is None:
        return 0 if linker() is None else linker().version()[0] * 1000
    major, minor = int(ptx[1]) + 4, int(ptx[2])
    return 1000 * major + 10 * (minor + (major == 12 and minor > 5))  # CUDA 12.5 and 12.6 have one PTX


def _first(capability: Capability) -> bytes:
    """One kernel, which shows whether there are any."""
    name = next(iter(KERNELS))
    return code(name, KERNELS[name].dtypes[0], capability)
