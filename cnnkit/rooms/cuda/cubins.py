"""Machine code on disk: what was made here before, and what was built beforehand elsewhere.

An entry is written as a whole or not at all and carries a checksum: what is missing or damaged is made anew. A folder
that cannot be written, and a full disk, are no error; only what is built on purpose must find its place.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cnnkit.files import write_atomically

LABEL = b"cnnkit cubin "
BUILT = "CNNKIT_CUBINS"  # names the folder of what was built beforehand


def built(name: str) -> bytes | None:
    """What was built beforehand under this name, if there is a folder of such."""
    folder = os.environ.get(BUILT)
    return _read(Path(folder) / f"{name}.cubin") if folder else None


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """What was made before under this name; else it is made, and kept if there is a place for it."""
    path = cache() / f"{name}.cubin"
    code = _read(path)
    if code is None:
        code = make()
        with suppress(OSError):
            write(path, code)
    return code


def cache() -> Path:
    """Where machine code is kept."""
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "cnnkit"


def write(path: Path, code: bytes) -> None:
    """Put an entry there, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, LABEL + hashlib.sha256(code).hexdigest().encode() + b"\n" + code)


def _read(path: Path) -> bytes | None:
    """An entry, if it is there and as it was written."""
    with suppress(OSError):
        head, _, code = path.read_bytes().partition(b"\n")
        if head == LABEL + hashlib.sha256(code).hexdigest().encode():
            return code
    return None
