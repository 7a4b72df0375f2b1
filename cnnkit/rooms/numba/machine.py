"""What kernels are compiled for: Numba's settings, this processor's vector registers, the sizes of its caches."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from ctypes import c_ssize_t
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import config as numba_config
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import get_host_cpu_features

from cnnkit import settings

MULTIPLY_ADDS = 64  # a nanosecond and core, about
L1 = 32 << 10  # bytes of the first-level cache
L2 = 512 << 10  # bytes that a thread can hope to keep near; half of what current cores have
MOST_KEPT = (32 << 20) - (64 << 10)  # bytes: 32 MiB with what the C library adds


class _Cache(FunctionCache):
    """Numba's kernels on disk, of the sources of this folder as they are now.

    Numba itself looks at the file of the kernel alone, but kernels are made of functions of other files too. A kernel
    that cannot be read or written is no reason to fail, only to compile.
    """

    saved = 0  # functions that this process compiled
    tidied: ClassVar[set[Path]] = set()  # folders from which it removed the kernels of other sources

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(self._cache_path, _prefix() + self._impl.filename_base, _sources())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling a damaged file, or one of another version, can raise anything
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        _Cache.saved += 1
        with suppress(OSError):  # a full disk, a folder that became read-only
            self._tidy(Path(self._cache_path))
            super().save_overload(sig, data)

    def _tidy(self, folder: Path) -> None:
        """Remove what was compiled of other sources: in a folder of this room's, nobody will ask for it again."""
        if folder not in self.tidied:
            self.tidied.add(folder)
            for path in folder.glob("*.nb[ic]"):
                if not path.name.startswith(_prefix()):
                    path.unlink(missing_ok=True)


def kernel(function: Callable[..., Any], fastmath: frozenset[str] = frozenset({"contract"})) -> Callable[..., Any]:
    """Compile on first use, without the GIL, kept on disk where there is a writable place for it.

    Of fast maths only the fused multiply-add: NaN, infinities and rounding are as written.
    """
    jit: Any = numba.njit  # its types do not know all of these
    compiled = jit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, fastmath=set(fastmath))(function)
    with suppress(RuntimeError):  # Numba finds no folder that it can write to: compile anew in each process
        compiled._cache = _Cache(function)
    return compiled


def summing_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that may add up in any order, and so in vectors; for sums and nothing else."""
    return kernel(function, frozenset({"contract", "reassoc", "nsz"}))


@lru_cache
def _sources() -> str:
    """A digest of all files of this room."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _prefix() -> str:
    """What the names of these sources' kernels begin with."""
    return f"{_sources()[:8]}."


_HEAD = object.__basicsize__  # bytes of every Python object; of an array, the address of its numbers comes next


def address_of(array: np.ndarray | None) -> int:
    """``array.ctypes.data``, in a tenth of the microsecond that NumPy takes; 0 if there is no array."""
    return 0 if array is None else c_ssize_t.from_address(id(array) + _HEAD).value


def keep_freed_memory() -> None:
    """Have the C library keep up to 64 MiB of what is freed, so that the next result is not new pages of memory.

    glibc begins with giving back all that exceeds 128 KiB, and making new pages takes longer than many a layer. It
    keeps twice the largest that was freed, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD): so we free that much. As
    nothing is written there, it takes no memory and a few microseconds.
    """
    np.empty(MOST_KEPT, np.uint8)


def _vector_unit() -> tuple[int, int]:
    """Bytes in a vector register, and how many registers there are, of the processor that Numba compiles for."""
    asked = getattr(numba_config, "CPU_FEATURES", None)  # what NUMBA_CPU_FEATURES says, such as "+avx,+avx2"
    flags = (get_host_cpu_features() if asked is None else asked).split(",")
    features = {flag.strip()[1:]: flag.strip()[:1] == "+" for flag in flags}
    if features.get("avx512f"):
        return 64, 32
    if features.get("avx2"):
        return 32, 16
    return 16, 32 if features.get("neon") else 16


VECTOR_BYTES, REGISTERS = _vector_unit()
MASK_REGISTERS = VECTOR_BYTES == 64  # a mask is a few bits in a register of its own, and costs a store nothing
FMAS = 1 if VECTOR_BYTES == 64 and llvm.get_host_cpu_name() == "znver4" else 2  # multiply-adds of vectors in a cycle


def compiled() -> int:
    """How many functions this process has compiled, instead of reading them from the disk."""
    return _Cache.saved


def describe() -> dict[str, Any]:
    """The processor as the kernels see it, and where compiled kernels are kept."""
    probe: Any = kernel(_vector_unit)
    return {
        "processor": llvm.get_host_cpu_name(),
        "vectors": f"{REGISTERS} registers of {VECTOR_BYTES} bytes",
        "workspace": f"{settings.current().max_workspace >> 20} MiB",
        "cache": getattr(probe._cache, "cache_path", None) or "none: no writable folder was found",
    }
