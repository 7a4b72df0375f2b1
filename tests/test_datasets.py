"""The built-in digits against typed numbers; the readers against files that the tests write, good and broken."""

import gzip
import itertools
import re
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cnnkit.datasets import Images, digits, load_folder, read_cifar10, read_idx, shift, split

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}

FIRST_DIGIT = [  # a zero, in sixteenths of white
    [0, 0, 5, 13, 9, 1, 0, 0],
    [0, 0, 13, 15, 10, 15, 5, 0],
    [0, 3, 15, 2, 0, 11, 8, 0],
    [0, 4, 12, 0, 0, 8, 8, 0],
    [0, 5, 8, 0, 0, 9, 8, 0],
    [0, 4, 11, 0, 1, 12, 7, 0],
    [0, 2, 14, 5, 10, 12, 0, 0],
    [0, 0, 6, 13, 10, 0, 0, 0],
]


def idx_bytes(array, code=None):
    header = bytes([0, 0, code or IDX_CODES[array.dtype.str[1:]], array.ndim])
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def cifar_bytes(labels, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
    return np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1).tobytes()


def write_mnist(folder, *, separator="-", gz=False, images=20):
    rng = np.random.default_rng(0)
    written = {}
    for stem, n in (("train", images), ("t10k", 10)):
        x, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), (np.arange(n) % 10).astype(np.uint8)
        for kind, array in (("images", x), ("labels", labels)):
            name, data = f"{stem}-{kind}{separator}idx{array.ndim}-ubyte", idx_bytes(array)
            (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(data) if gz else data)
            written[name.replace(".", "-")] = array
    return written


def write_cifar(folder):
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(cifar_bytes([number, 0], seed=number))
    (folder / "test_batch.bin").write_bytes(cifar_bytes([5, 4, 3], seed=9))


# The built-in digits


def test_digits_are_the_known_ones():
    x, labels = digits()
    assert x.shape == (1797, 1, 8, 8)
    assert x.dtype == np.float32
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (x[0, 0] * 16).tolist() == FIRST_DIGIT
    assert labels[:10].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert x.sum(dtype=np.float64) * 16 == 561718
    assert (x.min(), x.max()) == (0, 1)


def test_digits_equal_those_of_scikit_learn():
    reference = pytest.importorskip("sklearn.datasets", reason="compares with scikit-learn's copy").load_digits()
    x, labels = digits(dtype="float64")
    assert np.array_equal(x[:, 0] * 16, reference.images)
    assert np.array_equal(labels, reference.target)


@pytest.mark.parametrize(("canvas", "before"), [(8, 0), (9, 0), (10, 1), (16, 4), (33, 12)])
def test_centred_digits_lie_in_the_middle(canvas, before):
    x, _ = digits(canvas)
    inner = x[:, :, before : before + 8, before : before + 8]
    assert x.shape == (1797, 1, canvas, canvas)
    assert np.array_equal(inner, digits().x)
    assert x.sum() == inner.sum()


def test_random_digits_are_whole_and_everywhere():
    x, labels = digits(16, "random", seed=3)
    small = digits()
    assert np.array_equal(labels, small.labels)
    places = [find_place(image, digit) for image, digit in zip(x[:, 0], small.x[:, 0], strict=True)]
    assert set(places) == set(itertools.product(range(9), repeat=2))
    assert np.array_equal(x, digits(16, "random", seed=3).x)
    assert not np.array_equal(x, digits(16, "random", seed=4).x)


def find_place(image, digit):
    """The corner at which the digit was put"""
    for row, column in itertools.product(range(9), repeat=2):
        canvas = np.zeros_like(image)
        canvas[row : row + 8, column : column + 8] = digit
        if np.array_equal(canvas, image):
            return row, column
    raise AssertionError("the digit is nowhere on its canvas")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_digits_in_each_dtype_are_exact(dtype):
    x, _ = digits(dtype=dtype)
    assert x.dtype == dtype
    assert (x[0, 0] * 16).tolist() == FIRST_DIGIT


def test_digits_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="canvas is 7 pixels, but a digit needs 8"):
        digits(7)
    with pytest.raises(ValueError, match="placement is 'left', but must be 'centre' or 'random'"):
        digits(16, "left")
    with pytest.raises(TypeError, match="dtype is int32, but must be float16, float32 or float64"):
        digits(dtype="int32")


# split and shift


def test_split_takes_a_fifth_of_each_class():
    train, test = split(digits(), 0.2)
    assert np.bincount(test.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert len(train.labels) + len(test.labels) == 1797


def test_split_keeps_each_image_once_with_its_label():
    x = np.arange(60).reshape(60, 1, 1, 1)
    train, test = split((x, x.ravel() % 3), 0.25, seed=5)
    assert sorted([*train.x.ravel(), *test.x.ravel()]) == list(range(60))
    for part in (train, test):
        assert np.array_equal(part.x.ravel() % 3, part.labels)
        assert np.array_equal(np.sort(part.x.ravel()), part.x.ravel())


def test_split_follows_its_seed():
    first, again, other = (split(digits(), seed=seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first.x, again.x)
    assert not np.array_equal(first.x, other.x)


@pytest.mark.parametrize(("members", "fraction", "tested"), [(1, 0.9, 0), (2, 0.01, 1), (3, 0.99, 2), (10, 0.3, 3)])
def test_split_of_small_classes_leaves_some_on_either_side(members, fraction, tested):
    train, test = split((np.zeros((members, 1, 2, 2)), np.full(members, 4)), fraction)
    assert (len(train.labels), len(test.labels)) == (members - tested, tested)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_split_refuses_impossible_fractions(fraction):
    with pytest.raises(ValueError, match=f"test_fraction is {fraction}, but must lie between 0 and 1"):
        split(digits(), fraction)


def test_split_refuses_labels_of_another_length():
    with pytest.raises(ValueError, match=re.escape("labels have shape (4,), but 5 images need shape (5,)")):
        split((np.zeros((5, 1, 2, 2)), np.zeros(4, int)))


def shifted_by_loops(x, offsets):
    y = np.zeros_like(x)
    for n, c, i, j in np.ndindex(x.shape):
        row, column = i - offsets[n][0], j - offsets[n][1]
        if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
            y[n, c, i, j] = x[n, c, row, column]
    return y


@given(
    arrays.arrays(np.int16, st.tuples(*[st.integers(1, 4)] * 4), elements=st.integers(1, 999)),
    st.data(),
)
def test_shift_equals_its_definition(x, data):
    offset = st.tuples(st.integers(-5, 5), st.integers(-5, 5))
    offsets = data.draw(st.lists(offset, min_size=len(x), max_size=len(x)))
    moved = shift(x, offsets)
    assert moved.dtype == x.dtype
    assert np.array_equal(moved, shifted_by_loops(x, offsets))
    assert np.array_equal(shift(x, offsets[0]), shifted_by_loops(x, offsets[:1] * len(x)))


def test_shift_moves_along_one_and_three_axes():
    assert shift(np.arange(1, 5).reshape(1, 1, 4), [2]).ravel().tolist() == [0, 0, 1, 2]
    cube = np.zeros((1, 1, 3, 3, 3))
    cube[0, 0, 0, 1, 2] = 1
    assert np.argwhere(shift(cube, [2, 1, -2])).tolist() == [[0, 0, 2, 2, 0]]


def test_shift_there_and_back_loses_nothing_within_the_margin():
    x, _ = digits(16)
    for offset in itertools.product((-4, 4), repeat=2):
        moved = shift(x, offset)
        assert not np.array_equal(moved, x)
        assert np.array_equal(shift(moved, np.negative(offset)), x)


def test_shift_refuses_offsets_that_do_not_fit():
    x = np.zeros((3, 1, 8, 8))
    with pytest.raises(
        ValueError, match=re.escape("offset has shape (3,), but x of shape (3, 1, 8, 8) needs (2,) or (3, 2)")
    ):
        shift(x, (1, 2, 3))
    with pytest.raises(TypeError, match="offset holds float64, but must hold integers"):
        shift(x, (0.5, 0.5))


# IDX


@pytest.mark.parametrize("dtype", IDX_CODES)
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4, 5), (0,), (4, 0, 2)])
def test_idx_is_read_in_every_element_type(tmp_path, dtype, gz, shape):
    info = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
    array = np.resize(np.array([info.min, info.max, 1, 2, 100], dtype), shape)
    file = tmp_path / "numbers"
    file.write_bytes(gzip.compress(idx_bytes(array)) if gz else idx_bytes(array))
    read = read_idx(file)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    assert read.shape == shape
    assert np.array_equal(read, array)
    assert read.flags.writeable


def test_idx_typed_by_hand(tmp_path):
    file = tmp_path / "two-int16"
    file.write_bytes(bytes.fromhex("00 00 0b 01  00 00 00 02  01 02  ff fe"))
    assert read_idx(str(file)).tolist() == [258, -2]


BROKEN_IDX = {
    "empty": ("", "expected 4 bytes from byte 0, found 0"),
    "cut magic": ("00 00 08", "expected 4 bytes from byte 0, found 3"),
    "not zero": ("00 01 08 01 00 00 00 00", "expected two zero bytes at byte 0, found 00 01"),
    "unknown type": (
        "00 00 0a 01 00 00 00 00",
        "expected an element type (0x08, 0x09, 0x0b, 0x0c, 0x0d, 0x0e) at byte 2",
    ),
    "no axes": ("00 00 08 00 01", "expected a number of axes from 1 to 64 at byte 3, found 0"),
    "cut sizes": ("00 00 08 02 00 00 00 01 00", "expected 8 bytes from byte 4, found 5"),
    "cut data": (
        "00 00 08 01 00 00 00 03 01 02",
        "promises shape (3,), 3 bytes of data, but the file can hold at most 2",
    ),
    "trailing": ("00 00 08 01 00 00 00 02 01 02 03", "expected the file to end at byte 10, found more data"),
    "overflow": ("00 00 0e 03 ff ff ff ff ff ff ff ff ff ff ff ff", "expected sizes of at most"),
    "empty overflow": ("00 00 08 03 00 00 00 00 ff ff ff ff ff ff ff ff", "expected sizes of at most"),
}


@pytest.mark.parametrize("name", BROKEN_IDX)
def test_broken_idx_is_refused_with_its_place(tmp_path, name):
    content, message = BROKEN_IDX[name]
    file = tmp_path / "broken"
    file.write_bytes(bytes.fromhex(content))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_idx(file)
    assert str(error.value).startswith(f"{file}: ")


def test_idx_header_that_lies_takes_no_memory(tmp_path):
    header = bytes.fromhex("00 00 08 02 00 01 00 00 00 01 00 00")  # 65536 x 65536 bytes, 4 GiB
    plain, packed = tmp_path / "plain", tmp_path / "packed.gz"
    plain.write_bytes(header + bytes(1000))
    packed.write_bytes(gzip.compress(header + bytes(1000)))
    tracemalloc.start()
    for file in (plain, packed):
        with pytest.raises(ValueError, match="4294967296 bytes of data, but the file can hold at most"):
            read_idx(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_broken_gzip_is_refused(tmp_path):
    file = tmp_path / "labels.gz"
    good = gzip.compress(idx_bytes(np.arange(200, dtype=np.uint8)))
    for broken in (good[:-3], good[:40] + bytes(20) + good[60:], good + b"more", good[:12]):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"broken gzip data after byte \d+ of what it unpacks to"):
            read_idx(file)


@pytest.mark.parametrize(("content", "found"), [(b"\0\0\x08\x01\0\0\0\0", "00 00"), (b"", "nothing")])
def test_gz_that_is_not_gzip_says_so(tmp_path, content, found):
    file = tmp_path / "labels.gz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"labels.gz: expected gzip's 1f 8b at byte 0, found {found}"):
        read_idx(file)


def test_gzip_that_holds_too_much_or_too_little(tmp_path):
    file = tmp_path / "numbers.gz"
    data = idx_bytes(np.arange(200, dtype=np.uint8))
    file.write_bytes(gzip.compress(data + b"x"))
    with pytest.raises(ValueError, match="expected the file to end at byte 208, found more data"):
        read_idx(file)
    file.write_bytes(gzip.compress(data[:-5]))
    with pytest.raises(ValueError, match="expected 200 bytes from byte 8, found 195: the file is cut short"):
        read_idx(file)


def read_or_error(file):
    try:
        return read_idx(file), None
    except ValueError as error:
        return None, str(error)


fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)


@fuzz
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.tuples(st.sampled_from(sorted(IDX_CODES.values())), st.integers(0, 4), st.binary(max_size=40)).map(
            lambda parts: bytes([0, 0, parts[0], parts[1]]) + parts[2]
        ),
    ),
    packed=st.booleans(),
)
def test_any_bytes_give_an_array_or_a_value_error(tmp_path, content, packed):
    file = tmp_path / "fuzz"
    file.write_bytes(gzip.compress(content) if packed else content)
    array, error = read_or_error(file)
    if error:
        assert error.startswith(f"{file}: ")
    else:
        assert idx_bytes(array, code=content[2]) == content


@fuzz
@given(data=st.data())
def test_any_damage_to_gzip_is_a_value_error_or_harmless(tmp_path, data):
    array = np.arange(300, dtype=np.uint8)
    content = bytearray(gzip.compress(idx_bytes(array)))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file = tmp_path / "fuzz"
    file.write_bytes(content)
    read, error = read_or_error(file)
    if error:
        assert error.startswith(f"{file}: ")
    else:
        assert np.array_equal(read, array)  # the damage met what does not matter, such as gzip's time stamp


# CIFAR-10


def test_cifar_file_is_read_plane_by_plane(tmp_path):
    red, green, blue = (bytes([level]) * 1024 for level in (1, 2, 3))
    file = tmp_path / "test_batch.bin"
    file.write_bytes(bytes([9]) + red + green + blue + bytes([0]) + bytes(range(256)) * 12)
    x, labels = read_cifar10(file)
    assert x.shape == (2, 3, 32, 32)
    assert (x.dtype, labels.dtype) == (np.uint8, np.int64)
    assert labels.tolist() == [9, 0]
    assert [np.unique(plane).tolist() for plane in x[0]] == [[1], [2], [3]]
    assert x[1, 2, 1].tolist() == list(range(32, 64))


def test_cifar_folder_is_its_training_files_in_order(tmp_path):
    write_cifar(tmp_path)
    assert read_cifar10(tmp_path).labels.tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]


def test_cifar_folder_with_a_file_missing_is_refused(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\.bin"):
        read_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected records of 3073 bytes up to the end, found 0 bytes at byte 0"),
        (cifar_bytes([1, 2])[:-1], "expected records of 3073 bytes up to the end, found 3072 bytes at byte 3073"),
        (cifar_bytes([1, 2]) + b"xyz", "expected records of 3073 bytes up to the end, found 3 bytes at byte 6146"),
        (cifar_bytes([1, 10, 255]), "expected a label from 0 to 9 at byte 3073, found 10"),
    ],
)
def test_broken_cifar_is_refused_with_its_place(tmp_path, content, message):
    file = tmp_path / "broken.bin"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{file}: {message}")):
        read_cifar10(file)


# Folders


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("gz", [False, True])
def test_mnist_folder_under_all_its_names(tmp_path, separator, gz):
    written = write_mnist(tmp_path, separator=separator, gz=gz)
    train, test = load_folder(tmp_path)
    assert isinstance(train, Images)
    assert (train.x.shape, test.x.shape) == ((20, 1, 28, 28), (10, 1, 28, 28))
    assert (train.x.dtype, train.labels.dtype) == (np.float32, np.int64)
    assert np.array_equal(np.rint(train.x[:, 0] * 255), written["train-images-idx3-ubyte"])
    assert train.x.max() == 1
    assert np.array_equal(test.labels, written["t10k-labels-idx1-ubyte"])


def test_cifar_folder(tmp_path):
    write_cifar(tmp_path)
    train, test = load_folder(str(tmp_path))
    assert (train.x.shape, test.x.shape) == ((10, 3, 32, 32), (3, 3, 32, 32))
    assert train.x.dtype == np.float32
    assert 0 <= train.x.min() < train.x.max() <= 1
    assert test.labels.tolist() == [5, 4, 3]


def test_folder_without_data_says_what_it_looked_for(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"missing: t10k-labels-idx1-ubyte, .*data_batch_1\.bin to data_batch_5\.bin"):
        load_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "train-labels-idx1-ubyte",
            np.zeros(7, np.uint8),
            "holds 7 labels, but train-images-idx3-ubyte holds 20 images",
        ),
        (
            "train-images-idx3-ubyte",
            np.zeros((20, 9), np.uint8),
            "holds uint8 of shape (20, 9), but needs uint8 with 3",
        ),
        ("train-labels-idx1-ubyte", np.zeros(20, np.int32), "holds int32 of shape (20,), but needs uint8 with 1 axes"),
        ("t10k-images-idx3-ubyte", np.zeros((0, 9, 9), np.uint8), "holds uint8 of shape (0, 9, 9), but needs uint8"),
        ("t10k-labels-idx1-ubyte", np.full(10, 77, np.uint8), "the test labels go up to 77, but the training labels"),
        ("t10k-images-idx3-ubyte", np.zeros((10, 9, 9), np.uint8), "test images of shape (1, 9, 9), but training"),
    ],
)
def test_folder_with_files_that_do_not_fit(tmp_path, name, array, message):
    write_mnist(tmp_path)
    (tmp_path / name).write_bytes(idx_bytes(array))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_folder(tmp_path)
