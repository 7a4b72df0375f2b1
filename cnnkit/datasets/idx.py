"""Reader for IDX, the format of MNIST: a magic number, the sizes, then the values.

The first four bytes are 0, 0, the element type and the number of axes; each axis' size follows as
a big-endian unsigned 32-bit integer; then the elements, big-endian, the last axis fastest.
"""

import math
import os
from typing import BinaryIO, NoReturn

import numpy as np

from cnnkit.arrays import Array
from cnnkit.datasets.files import Path, open_maybe_gzip, read_exactly

ELEMENT_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_AXES = 64  # what NumPy can hold


def read_idx(path: Path) -> Array:
    """Read one array from an IDX file, such as MNIST's, compressed by gzip or not.

    The file's header is not believed: no memory is taken for more elements than the file can hold.

    Parameters
    ----------
    path : str or os.PathLike
        The file. Whether it is compressed is seen from its first bytes.

    Returns
    -------
    numpy.ndarray
        The array, of the file's shape and element type (uint8, int8, int16, int32, float32 or
        float64) in the machine's own byte order.

    Raises
    ------
    ValueError
        If the file is not a whole and correct IDX file; the message names the byte.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from cnnkit.datasets import read_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    ...     read_idx(file)
    array([5, 0, 4], dtype=uint8)
    """
    with open_maybe_gzip(path) as (stream, most_bytes):
        dtype, shape = _read_header(path, stream)
        header = 4 + 4 * len(shape)
        size = _data_size(path, dtype, shape)
        if header + size > most_bytes:
            raise ValueError(
                f"{os.fspath(path)}: the header at byte 4 promises shape {shape}, {size} bytes of "
                f"data, but the file can hold at most {max(most_bytes - header, 0)}"
            )
        data = read_exactly(path, stream, header, size, last=True)
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_header(path: Path, stream: BinaryIO) -> tuple[np.dtype, tuple[int, ...]]:
    zero, zero_too, code, axes = magic = read_exactly(path, stream, 0, 4)
    if zero or zero_too:
        _wrong(path, 0, "two zero bytes", magic[:2].hex(" "))
    if code not in ELEMENT_TYPES:
        known = ", ".join(f"{known:#04x}" for known in ELEMENT_TYPES)
        _wrong(path, 2, f"an element type ({known})", f"{code:#04x}")
    if not 1 <= axes <= MOST_AXES:
        _wrong(path, 3, f"a number of axes from 1 to {MOST_AXES}", str(axes))
    sizes = np.frombuffer(read_exactly(path, stream, 4, 4 * axes), ">u4")
    return np.dtype(ELEMENT_TYPES[code]), tuple(int(size) for size in sizes)


def _data_size(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Bytes of data; a shape that NumPy could not address even when empty is refused."""
    addressed = dtype.itemsize * math.prod(max(size, 1) for size in shape)
    if addressed > np.iinfo(np.intp).max:
        _wrong(path, 4, f"sizes of at most {np.iinfo(np.intp).max} bytes in all", str(shape))
    return dtype.itemsize * math.prod(shape)


def _wrong(path: Path, byte: int, expected: str, found: str) -> NoReturn:
    raise ValueError(f"{os.fspath(path)}: expected {expected} at byte {byte}, found {found}")
