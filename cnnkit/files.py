"""safetensors files: written as a whole or not at all, read with a word on what is wrong."""

import os
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike

import numpy as np

from cnnkit.arrays import Array, on_host

KIND, CHECKSUM = "cnnkit.kind", "cnnkit.crc32"  # entries of a file's metadata: what it holds, and whether still whole

Path = str | PathLike[str]


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write one safetensors file that says of itself that it holds a `kind`."""
    from safetensors.numpy import save

    plain = {
        name: np.array(on_host(array), array.dtype.newbyteorder("="), order="C") for name, array in tensors.items()
    }
    texts = {KIND: kind, **metadata}
    write_atomically(path, save(plain, {CHECKSUM: _checksum(plain, texts), **texts}))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file as a whole: whenever this stops, `path` holds the old content or the new."""
    path = os.path.realpath(path)  # a link stays a link
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"  # next to it: only within a file system is a replacement atomic
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors and metadata of a file that holds a `kind`; ValueError for every other file."""
    from safetensors import SafetensorError

    try:
        tensors, metadata = _read(path, kind)
    except (SafetensorError, TypeError, AttributeError) as error:  # the last two for a dtype that NumPy lacks
        raise ValueError(f"{os.fspath(path)} is damaged or no safetensors file of cnnkit's: {error}") from None
    if metadata.pop(CHECKSUM, "") != _checksum(tensors, metadata):
        raise ValueError(f"{os.fspath(path)} is damaged: its content does not match its checksum")
    return tensors, metadata


def _read(path: Path, kind: str) -> tuple[dict[str, Array], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(os.fspath(path), framework="numpy") as file:
        metadata = file.metadata() or {}
        found = metadata.get(KIND, "tensors of another program")
        if found != kind:
            raise ValueError(f"{os.fspath(path)} holds {found}, but {kind} is needed")
        return {name: file.get_tensor(name) for name in sorted(file.keys())}, metadata


def _checksum(tensors: Mapping[str, Array], texts: Mapping[str, str]) -> str:
    """The CRC-32 of names and values, in the order of the names."""
    crc = zlib.crc32(repr(sorted(texts.items())).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].tobytes(), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"
