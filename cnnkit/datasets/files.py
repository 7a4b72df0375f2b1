"""Reading files that may lie about their size, plain or gzip's, and never more than was asked."""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

Path = str | os.PathLike[str]

GZIP_MAGIC = b"\x1f\x8b"
GZIP_BEST_RATIO = 1032  # deflate cannot pack more than this many bytes into one
CHUNK = 1 << 20


@contextmanager
def open_maybe_gzip(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file and tell the most bytes that it can yield, unpacking it if it is gzip's."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.peek(2)[:2] == GZIP_MAGIC:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, unpacked), size * GZIP_BEST_RATIO
        elif os.fspath(path).endswith(".gz"):
            raise ValueError(
                f"{os.fspath(path)}: expected gzip's {GZIP_MAGIC.hex(' ')} at byte 0, found "
                f"{file.peek(2)[:2].hex(' ') or 'nothing'}; an uncompressed file must not be "
                "named .gz"
            )
        else:
            yield file, size


def read_exactly(path: Path, stream: BinaryIO, start: int, size: int, *, last: bool = False) -> bytearray:
    """Read the next `size` bytes, which begin at byte `start`; with `last`, the last ones.

    Memory is taken as the bytes arrive, a chunk at a time, not for what was asked.
    """
    data = bytearray()
    while len(data) < size + last:
        chunk = _read_some(path, stream, start + len(data), min(CHUNK, size + last - len(data)))
        if not chunk:
            break
        data += chunk
    if len(data) < size:
        raise ValueError(
            f"{os.fspath(path)}: expected {size} bytes from byte {start}, found {len(data)}: the file is cut short"
        )
    if len(data) > size:
        raise ValueError(f"{os.fspath(path)}: expected the file to end at byte {start + size}, found more data")
    return data


def _read_some(path: Path, stream: BinaryIO, position: int, size: int) -> bytes:
    try:
        return stream.read(size)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{os.fspath(path)}: broken gzip data after byte {position} of what it unpacks to ({error})"
        ) from error
