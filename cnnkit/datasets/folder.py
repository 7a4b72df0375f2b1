"""A folder of MNIST's or CIFAR-10's files, recognised by their names."""

from pathlib import Path as FilePath

from cnnkit.arrays import Array
from cnnkit.datasets.cifar import TEST_FILE, TRAINING_FILES, read_cifar10
from cnnkit.datasets.files import Path
from cnnkit.datasets.idx import read_idx
from cnnkit.datasets.images import Images, as_training_data

IDX_ENDINGS = ("-idx{axes}-ubyte", "-idx{axes}-ubyte.gz", ".idx{axes}-ubyte", ".idx{axes}-ubyte.gz")


def load_folder(folder: Path) -> tuple[Images, Images]:
    """Load the training and test images from the standard files of MNIST or CIFAR-10.

    MNIST and all that is published in its form (Fashion-MNIST, KMNIST) are ``train-images``,
    ``train-labels``, ``t10k-images`` and ``t10k-labels``, ending in ``-idx3-ubyte`` (images) or
    ``-idx1-ubyte`` (labels), also with a dot in front of ``idx`` and with ``.gz`` behind. CIFAR-10
    is the binary version, ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``.

    Parameters
    ----------
    folder : str or os.PathLike
        Where the files lie.

    Returns
    -------
    train, test : Images
        ``x``, float32 of shape (N, C, H, W) with values 0 to 1, and ``labels``, int64.

    Raises
    ------
    ValueError
        If neither set of files is there, or a file is not what its name says.
    OSError
        If the folder or a file cannot be read.

    Examples
    --------
    >>> from cnnkit.datasets import load_folder
    >>> train, test = load_folder("data/mnist")  # doctest: +SKIP
    >>> train.x.shape, test.x.shape  # doctest: +SKIP
    ((60000, 1, 28, 28), (10000, 1, 28, 28))
    """
    names = {file.name for file in FilePath(folder).iterdir()}
    if names.issuperset([*TRAINING_FILES, TEST_FILE]):
        train = as_training_data(*read_cifar10(folder))
        test = as_training_data(*read_cifar10(FilePath(folder, TEST_FILE)))
    else:
        train, test = _load_idx(FilePath(folder), names)
    _check_alike(FilePath(folder), train, test)
    return train, test


def _check_alike(folder: FilePath, train: Images, test: Images) -> None:
    if test.x.shape[1:] != train.x.shape[1:]:
        raise ValueError(
            f"{folder}: holds test images of shape {test.x.shape[1:]}, but training images of {train.x.shape[1:]}"
        )
    if test.labels.max() > train.labels.max():
        raise ValueError(
            f"{folder}: the test labels go up to {test.labels.max()}, but the training labels only to "
            f"{train.labels.max()}"
        )


def _load_idx(folder: FilePath, names: set[str]) -> tuple[Images, Images]:
    parts = [("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1)]
    files = [_find(names, stem, axes) for stem, axes in parts]
    if None in files:
        raise ValueError(_not_found(folder, parts, files))
    train_x, train_labels, test_x, test_labels = (folder / file for file in files if file)
    return _read_pair(train_x, train_labels), _read_pair(test_x, test_labels)


def _find(names: set[str], stem: str, axes: int) -> str | None:
    candidates = [stem + ending.format(axes=axes) for ending in IDX_ENDINGS]
    return next((name for name in candidates if name in names), None)


def _not_found(folder: FilePath, parts: list[tuple[str, int]], files: list[str | None]) -> str:
    missing = [
        stem + IDX_ENDINGS[0].format(axes=axes) for (stem, axes), file in zip(parts, files, strict=True) if file is None
    ]
    return (
        f"{folder}: found neither MNIST's files (missing: {', '.join(missing)}, also looked for "
        f'with ".idx" and with ".gz") nor CIFAR-10\'s ({TRAINING_FILES[0]} to '
        f"{TRAINING_FILES[-1]} and {TEST_FILE})"
    )


def _read_pair(images_file: FilePath, labels_file: FilePath) -> Images:
    images, labels = read_idx(images_file), read_idx(labels_file)
    _check_bytes(images_file, images, axes=3)
    _check_bytes(labels_file, labels, axes=1)
    if len(images) != len(labels):
        raise ValueError(
            f"{labels_file}: holds {len(labels)} labels, but {images_file.name} holds {len(images)} images"
        )
    return as_training_data(images[:, None], labels)


def _check_bytes(file: FilePath, array: Array, axes: int) -> None:
    if array.dtype != "u1" or array.ndim != axes or not array.size:
        raise ValueError(
            f"{file}: holds {array.dtype} of shape {array.shape}, but needs uint8 with {axes} axes "
            "and at least one element"
        )
