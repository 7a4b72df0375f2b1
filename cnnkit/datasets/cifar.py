"""Reader for CIFAR-10 in its binary version: records of one label byte and 3 x 32 x 32 pixels."""

from pathlib import Path as FilePath

import numpy as np

from cnnkit.arrays import Array
from cnnkit.datasets.files import Path
from cnnkit.datasets.images import Images

IMAGE_SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes, row by row
CLASSES = 10
TRAINING_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"


def read_cifar10(path: Path) -> Images:
    """Read CIFAR-10 images from a file of the binary version, or a folder's training files.

    Parameters
    ----------
    path : str or os.PathLike
        A file, such as ``test_batch.bin``; or a folder, for its ``data_batch_1.bin`` to
        ``data_batch_5.bin`` one after the other, of which none may be missing.

    Returns
    -------
    Images
        ``x``, uint8 of shape (N, 3, 32, 32) as stored, the channels red, green, blue, and
        ``labels``, int64 of shape (N,), 0 to 9.

    Raises
    ------
    ValueError
        If a file is not made of whole records with labels 0 to 9; the message names the byte.
    OSError
        If a file is missing or cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from cnnkit.datasets import read_cifar10
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "test_batch.bin")
    ...     _ = file.write_bytes(bytes([7]) + bytes(3072))
    ...     x, labels = read_cifar10(file)
    >>> x.shape, labels
    ((1, 3, 32, 32), array([7]))
    """
    folder = FilePath(path)
    files = [folder / name for name in TRAINING_FILES] if folder.is_dir() else [folder]
    records = np.concatenate([_records(file) for file in files])
    x = np.ascontiguousarray(records[:, 1:]).reshape(-1, *IMAGE_SHAPE)
    return Images(x, records[:, 0].astype(np.int64))


def _records(path: FilePath) -> Array:
    """The bytes of one file as an array of shape (records, 3073)."""
    size = path.stat().st_size
    if size % RECORD or not size:
        raise ValueError(
            f"{path}: expected records of {RECORD} bytes up to the end, found {size % RECORD} "
            f"bytes at byte {size - size % RECORD}"
        )
    records = np.fromfile(path, np.uint8).reshape(-1, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= CLASSES)
    if wrong.size:
        first = int(wrong[0])
        raise ValueError(
            f"{path}: expected a label from 0 to {CLASSES - 1} at byte {first * RECORD}, found {records[first, 0]}"
        )
    return records
