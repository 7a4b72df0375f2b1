"""The building block by itself, and the cache of compiled kernels."""

import os
import pickle
import platform
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="the CPU kernels need Numba")

import numba

import cnnkit
from cnnkit import geometry
from cnnkit.rooms.numba import convolve, emit, lines, machine, moves, tile

DTYPES = [np.dtype("float32"), np.dtype("float64")]


@machine.kernel
def run_outer(loop, out, step, here, count, bias, relu, a, b, offsets):
    tile.outer(
        loop, out.ctypes.data, step, here, count, bias.ctypes.data, relu, a.ctypes.data, b.ctypes.data,
        offsets.ctypes.data, offsets.size,
    )  # fmt: skip


@machine.kernel
def run_inner(loop, out, step, here, across, x, x_offsets, g, g_offsets, count):
    tile.inner(
        loop, out.ctypes.data, step, here, across, x.ctypes.data, x_offsets.ctypes.data, g.ctypes.data,
        g_offsets.ctypes.data, count,
    )  # fmt: skip


@machine.kernel
def run_gather(loop, out, places, count, more, more_step, relu, a, rows, offsets, b):
    tile.gather(
        loop, out.ctypes.data, places.ctypes.data, count, more.ctypes.data, more_step, relu, a.ctypes.data,
        rows.ctypes.data, offsets.ctypes.data, offsets.size, b.ctypes.data, b.shape[1],
    )  # fmt: skip


@machine.kernel
def run_fill(one, to, pitch, source, channels, channel_step, rows, row_step, first, last, count, step, low, high):
    moves.fill(
        one, to.ctypes.data, pitch, source.ctypes.data, channels, channel_step, rows, row_step, first, last,
        count, step, low, high,
    )  # fmt: skip


@machine.kernel
def run_copy(one, to, step, source, count):
    moves.copy(one, to.ctypes.data, step, source.ctypes.data, count)


@machine.kernel
def run_gather_lines(one, to, step, source, offsets, count):
    moves.gather_lines(one, to.ctypes.data, step, source.ctypes.data, offsets.ctypes.data, offsets.size, count)


@machine.kernel
def run_weave(one, to, source, step, rows, count):
    moves.weave(one, to.ctypes.data, source.ctypes.data, step, rows, count)


@machine.kernel
def run_repeat(one, to, source, step, times, count):
    moves.repeat(one, to.ctypes.data, source.ctypes.data, step, times, count)


@machine.kernel
def run_pack(unit, to, rows, source, step, here, offsets):
    moves.pack(unit, to.ctypes.data, rows, source.ctypes.data, step, here, offsets.ctypes.data, offsets.size)


def one_dtype(one):
    kind = one._numba_type_
    return np.dtype(getattr(kind, "unit", kind).dtype)


UNITS = [pytest.param(emit.unit(dtype), id=str(dtype)) for dtype in DTYPES]


def every(kind):
    return [
        pytest.param(one, id=f"{one.rows}x{one.vectors} {dtype}") for dtype in DTYPES for one in tile.tiles(kind, dtype)
    ]


@pytest.mark.parametrize("terms", [0, 1, 5])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("one", every("outer"))
def test_outer_is_a_sum_of_products(one, relu, terms):
    rng = np.random.default_rng(terms)
    dtype = one_dtype(one)
    a = rng.integers(-4, 5, (terms, one.rows)).astype(dtype)
    b = rng.integers(-4, 5, 3 * one.columns + 7).astype(dtype)
    bias = rng.integers(-4, 5, one.rows).astype(dtype)
    offsets = rng.integers(0, 2 * one.columns + 7, terms)
    expected = bias[:, None] + sum(
        (np.outer(a[t], b[o : o + one.columns]) for t, o in enumerate(offsets)), np.zeros((one.rows, one.columns))
    )
    expected = np.maximum(expected, 0) if relu else expected
    counts = {1, one.lanes, one.columns, *rng.integers(1, one.columns + 1, 5)}
    for here, count in ((here, count) for here in range(1, one.rows + 1) for count in counts):
        out = np.full((one.rows, one.columns + 3), np.nan, dtype)
        run_outer(one.loop, out, one.columns + 3, here, count, bias, relu, a, b, offsets)
        assert (out[:here, :count] == expected[:here, :count]).all()  # small integers: no rounding
        assert np.isnan(out[here:]).all()
        assert np.isnan(out[:, count:]).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("one", every("gather"))
def test_gather_is_a_sum_of_products_of_what_tables_name(one, relu):
    dtype = one_dtype(one)
    for terms, alike in product((0, 1, 5), (False, True)):
        rng = np.random.default_rng(terms)
        a = rng.integers(-4, 5, 40).astype(dtype)
        rows, offsets = rng.integers(0, 20, one.rows), rng.integers(0, 20, terms)
        b = rng.integers(-4, 5, (terms, one.columns + 5)).astype(dtype)
        more = rng.integers(-4, 5, (1 if alike else one.rows, one.columns)).astype(dtype)
        expected = more + a[rows[:, None] + offsets] @ b[:, : one.columns]
        expected = np.maximum(expected, 0) if relu else expected
        for count in {1, one.lanes, one.columns - 1, one.columns}:
            places = rng.permutation(one.rows) * (one.columns + 3)
            out = np.full(one.rows * (one.columns + 3), np.nan, dtype)
            run_gather(one.loop, out, places, count, more, 0 if alike else one.columns, relu, a, rows, offsets, b)
            found = out.reshape(one.rows, -1)[places // (one.columns + 3)]
            assert (found[:, :count] == expected[:, :count]).all()  # small integers: no rounding
            assert np.isnan(found[:, count:]).all()


@pytest.mark.parametrize("one", every("inner"))
def test_inner_is_a_sum_over_what_counts(one):
    rng = np.random.default_rng(0)
    dtype = one_dtype(one)
    for n in (0, 1, one.lanes - 1, one.lanes, 2 * one.lanes + 3, 5 * one.lanes):
        x, g = (rng.integers(-4, 5, (rows, n)).astype(dtype) for rows in (one.rows, one.vectors))
        x_lines, g_lines = (np.full((len(a), n + 20), np.nan, dtype) for a in (x, g))  # what is around is not read
        x_lines[:, 7 : 7 + n], g_lines[:, 3 : 3 + n] = x, g
        offsets = [np.arange(len(lines)) * (n + 20) + start for lines, start in ((x_lines, 7), (g_lines, 3))]
        for here, across in ((one.rows, one.vectors), (1, one.vectors), (one.rows - 1, 1)):
            out = np.full((one.vectors, one.rows + 2), 100, dtype)
            run_inner(one.loop, out, one.rows + 2, here, across, x_lines, offsets[0], g_lines, offsets[1], n)
            expected = np.full_like(out, 100)
            expected[:across, :here] += g[:across] @ x[:here].T
            assert (out == expected).all()


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, -1])
@pytest.mark.parametrize("one", UNITS)
def test_fill_is_rows_with_zeros_around(one, step):
    rng = np.random.default_rng(abs(step))
    dtype, tried = one_dtype(one), 60
    for _ in range(tried):
        channels, rows, count = rng.integers(1, (4, 5, 3 * one.lanes))
        x = rng.integers(1, 9, (channels, rows, abs(step) * count)).astype(dtype)
        first, last = np.sort(rng.integers(0, rows + 1, 2))
        low, high = np.sort(rng.integers(0, count + 1, 2))
        expected = np.zeros((channels, rows, count), dtype)
        seen = x[:, :, ::step]
        expected[:, first:last, low:high] = seen[:, first:last, low:high]
        around = np.full((channels, rows + 2, x.shape[2]), np.nan, dtype)  # what is not named is not read
        around[:, 1 + first : 1 + last] = x[:, first:last]
        plane = around[:, 1:, 0 if step > 0 else -1 :]
        pitch = rows * count + one.lanes
        to = np.full(channels * pitch + 3, np.nan, dtype)
        steps = (channels, (rows + 2) * x.shape[2], rows, x.shape[2], first, last, count, step, low, high)
        run_fill(one, to, pitch, plane, *steps)
        lines = to[:-3].reshape(channels, pitch)
        assert (lines[:, : rows * count] == expected.reshape(channels, -1)).all()
        assert np.isnan(to[-3:]).all()


@pytest.mark.parametrize("step", [1, 2, -3])
@pytest.mark.parametrize("one", UNITS)
def test_copy_writes_nothing_else(one, step):
    dtype = one_dtype(one)
    for count in (0, 1, one.lanes - 1, one.lanes, 3 * one.lanes + 1):
        source, to = np.arange(1, count + 1).astype(dtype), np.zeros(3 * count + 9, dtype)
        start = 0 if step > 0 else len(to) - 1
        run_copy(one, to[start:], step, source, count)
        expected = np.zeros_like(to)
        expected[start::step][:count] = source
        assert (to == expected).all()


@pytest.mark.parametrize("one", UNITS)
def test_gather_lines_reads_what_is_there(one):
    dtype, offsets = one_dtype(one), np.array([40, 3, 0, 22])
    for count in (1, one.lanes - 1, one.lanes, 2 * one.lanes + 1, 4 * one.lanes):
        step, written = 5 * one.lanes, -(-count // one.lanes) * one.lanes
        source = np.arange(1, 41 + count).astype(dtype)  # the first line ends with it
        to = np.full((len(offsets), step), np.nan, dtype)
        run_gather_lines(one, to, step, source, offsets, count)
        assert (to[:, :count] == source[offsets[:, None] + np.arange(count)]).all()
        assert np.isnan(to[:, written:]).all()


@machine.kernel
def run_transpose(one, to, to_step, source, source_step, rows, columns):
    moves.transpose(one, to.ctypes.data, to_step, source.ctypes.data, source_step, rows, columns)


@pytest.mark.parametrize("one", UNITS)
def test_transpose_turns_a_matrix(one):
    rng = np.random.default_rng(3)
    dtype = one_dtype(one)
    for rows, columns in [(1, 1), (one.lanes, one.lanes), *rng.integers(0, 3 * one.lanes, (30, 2))]:
        source = np.full((rows, columns + 3), np.nan, dtype)
        source[:, :columns] = rng.integers(1, 99, (rows, columns))
        to = np.zeros((columns + 1, rows + 2), dtype)
        run_transpose(one, to, rows + 2, source, columns + 3, rows, columns)
        assert (to[:columns, :rows] == source[:, :columns].T).all()
        assert (to[:, rows:] == 0).all()
        assert (to[columns] == 0).all()


@pytest.mark.parametrize("one", UNITS)
def test_pack_brings_rows_together(one):
    dtype = one_dtype(one)
    source, many = np.arange(1, 4000).astype(dtype), np.random.default_rng(5).integers(0, 400, 2 * moves.FEW + 3)
    beside = np.arange(7, 10 + 3 * one.lanes)
    parted = np.where(np.arange(len(beside)) < one.lanes, beside, beside[::-1])
    tile_rows = {a_tile.rows for a_tile in tile.tiles("outer", dtype)}
    for rows, offsets in product(tile_rows | {one.lanes, 3 * one.lanes}, (many, many[:1], beside, parted)):
        for here, step in product({1, rows - 1, rows} - {0}, (40, 1)):
            to = np.full(len(offsets) * rows + 1, np.nan, dtype)
            run_pack(one, to, rows, source, step, here, offsets)
            expected = np.zeros((len(offsets), rows))
            expected[:, :here] = source[offsets[:, None] + step * np.arange(here)]
            assert (to[:-1] == expected.ravel()).all()
            assert np.isnan(to[-1])


def test_a_nan_passes_the_relu():
    one = tile.tiles("outer", DTYPES[0])[-1]
    out, bias = np.zeros((one.rows, one.columns), np.float32), np.full(one.rows, np.nan, np.float32)
    nothing = np.zeros(0, np.float32)
    run_outer(one.loop, out, one.columns, one.rows, one.columns, bias, True, nothing, out, np.zeros(0, np.int64))
    assert np.isnan(out).all()


def test_tiles_fit_the_registers():
    for kind in ("outer", "inner", "gather"):
        for one in tile.tiles(kind, DTYPES[0]):
            operands = one.vectors if one.rows > 1 else 1  # a single row uses each vector once, as it is loaded
            assert one.rows * one.vectors + operands + 1 <= machine.REGISTERS


def test_a_tile_type_is_itself_after_a_trip_to_disk():
    """Numba's cache finds a kernel by its pickled types."""
    kind = tile.tiles("outer", DTYPES[0])[0]._numba_type_
    assert pickle.loads(pickle.dumps(kind)) == kind
    assert tile.TileType(kind.rows, kind.vectors, emit.UnitType("float64", kind.unit.lanes)) != kind


PROBE = """
import numpy as np, cnnkit
x = np.arange(36, dtype="float32").reshape(1, 1, 6, 6)
with cnnkit.use_backend("numba"):
    print(float({work}.sum()))
"""
CONV = PROBE.format(work="cnnkit.conv2d(x, np.ones((1, 1, 2, 2), 'float32'))"), "1750.0"
RELU = PROBE.format(work="cnnkit.relu(x)"), "630.0"  # is compiled in a third of the time


def probe(cache: Path, code: str) -> str:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_kernels_are_kept_on_disk(tmp_path):
    code, answer = CONV
    assert probe(tmp_path, code) == answer
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}
    assert len(kept) == 4  # of a tile and of the kernel: what there is, and the code
    assert probe(tmp_path, code) == answer
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")} == kept


@pytest.mark.parametrize("damage", [b"", b"\x80\x05garbage"], ids=["empty", "garbage"])
@pytest.mark.parametrize("kind", ["*.nbi", "*.nbc"])
def test_a_damaged_cache_is_made_anew(tmp_path, kind, damage):
    code, answer = RELU
    assert probe(tmp_path, code) == answer
    for path in tmp_path.rglob(kind):
        path.write_bytes(damage)
    assert probe(tmp_path, code) == answer
    assert all(path.read_bytes() != damage for path in tmp_path.rglob(kind))


def test_a_change_in_any_file_of_the_room_makes_kernels_anew(tmp_path, monkeypatch):
    """`row_sum` stands in one file and its callers in others: Numba by itself would keep theirs."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def hits() -> int:
        again = machine.kernel(_plus_two)
        assert again(1) == 3
        return again.stats.cache_hits.total()

    assert [hits(), hits()] == [0, 1]
    before = set(tmp_path.rglob("*.nb?"))
    monkeypatch.setattr(machine, "_sources", lambda: "other sources")
    monkeypatch.setattr(machine._Cache, "tidied", set())
    assert [hits(), hits()] == [0, 1]
    after = set(tmp_path.rglob("*.nb?"))
    assert len(before) == len(after) == 2  # what there is, and the code; of the old sources nothing stays
    assert not before & after


def test_processes_may_fill_a_cache_at_once(tmp_path):
    code, answer = RELU
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    many = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [one.communicate()[0].strip() for one in many] == [answer] * 3
    assert probe(tmp_path, code) == answer


def test_without_a_place_to_write_kernels_are_compiled_all_the_same(monkeypatch):
    class Nowhere:
        def __init__(self, function):
            raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(machine, "_Cache", Nowhere)
    assert machine.kernel(lambda x: x + 1)(1) == 2


def test_a_full_disk_does_not_stop_a_kernel(monkeypatch):
    def full(self, sig, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine.FunctionCache, "save_overload", full)
    assert machine.kernel(_plus_two)(1) == 3


def _plus_two(x):
    return x + 2


def run_apart(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"
    return done.stdout.strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it asks Linux for a page that may not be read")
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("behind", [True, False])
def test_nothing_beside_an_array_is_read(behind, dtype, padding):
    """The array ends (or begins) where a page may not be touched."""
    code = f"""
import ctypes, itertools, mmap, numpy as np, cnnkit
from cnnkit.rooms.numba import convolve
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 6 * page)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
protect = ctypes.CDLL(None).mprotect
for at in (0, 5 * page):
    protect(ctypes.c_void_p(address + at), ctypes.c_size_t(page), 0)
def beside(shape):
    size = int(np.prod(shape))
    start = 5 * page - size * np.dtype("{dtype}").itemsize if {behind} else page
    array = np.frombuffer(memory, "{dtype}", size, offset=start).reshape(shape)
    array[...] = 1
    return array
total, find = 0, convolve._tile
def in_panels(*args):
    tile, _, cycles = find(*args)
    return tile, True, cycles
with cnnkit.use_backend("numba"):
    for way, shape in itertools.product((find, in_panels), ((1, 1, 3, 5), (2, 3, 5, 7), (1, 2, 9, 17))):
        convolve._tile = way
        convolve._way.cache_clear()
        cnnkit.conv2d(beside(shape), np.ones((16, shape[1], 1, 1), "{dtype}"))
        weight = np.ones((4, shape[1], 3, 3), "{dtype}")
        y = cnnkit.conv2d(beside(shape), weight, padding={padding})
        grads = cnnkit.conv2d_backward(np.ones_like(y), beside(shape), weight, padding={padding})
        grad_y = beside(y.shape)
        total += y.sum() + cnnkit.conv2d_backward(grad_y, np.ones(shape, "{dtype}"), weight, padding={padding}).x.sum()
        cnnkit.max_pool2d(beside(shape), 2), cnnkit.avg_pool2d(beside(shape), 2), cnnkit.relu(beside(shape))
    cnnkit.dense(beside((3, 7)), np.ones((5, 7), "{dtype}")), cnnkit.dense(np.ones((5, 7), "{dtype}"), beside((3, 7)))
    cnnkit.dense_backward(np.ones((3, 5), "{dtype}"), np.ones((3, 7), "{dtype}"), beside((5, 7)))
print(total > 0)
"""
    assert run_apart(code) == "True"


def test_ctrl_c_while_threads_compute_leaves_them_their_memory():
    code = """
import signal, numpy as np, cnnkit
cnnkit.set_num_threads(8)
x, w = np.ones((16, 32, 62, 62), np.float32), np.ones((32, 32, 3, 3), np.float32)
expected = cnnkit.conv2d(x, w, padding=1)
signal.signal(signal.SIGALRM, signal.default_int_handler)
rng, caught = np.random.default_rng(0), 0
for _ in range(60):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.03))
            for _ in range(12):
                cnnkit.conv2d(x, w, padding=1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:  # it may come as late as in the last line
        caught += 1
print(caught > 5, (cnnkit.conv2d(x, w, padding=1) == expected).all())
"""
    assert run_apart(code) == "True True"


def test_a_call_at_exit_still_computes():
    code = """
import atexit, numpy as np, cnnkit
cnnkit.set_num_threads(4)
x, w = np.ones((4, 32, 40, 40), np.float32), np.ones((32, 32, 5, 5), np.float32)
atexit.register(lambda: print(cnnkit.conv2d(x, w).sum()))
"""
    assert float(run_apart(code)) == pytest.approx(4 * 32 * 36 * 36 * 800, rel=1e-6)


# ---------------------------------------------------------------- windows with several results


@pytest.mark.parametrize("rows", moves.STEPS[1:])
@pytest.mark.parametrize("one", UNITS)
def test_weave_lays_rows_between_each_other(one, rows):
    dtype = one_dtype(one)
    for count in (0, 1, rows, one.lanes * rows, one.lanes * rows + 1, 2 * one.lanes * rows + one.lanes + 3):
        step = 3 * one.lanes
        source, to = np.arange(1, rows * step + 1).astype(dtype), np.zeros(count + 9, dtype)
        run_weave(one, to, source, step, rows, count)
        assert (to[:count] == source.reshape(rows, step).T.reshape(-1)[:count]).all()
        assert (to[count:] == 0).all()


@pytest.mark.parametrize("one", UNITS)
def test_repeat_takes_every_so_many_so_often(one):
    for step, times in product(moves.STEPS, moves.STEPS):
        for count in (0, 1, one.lanes - 1, one.lanes, one.lanes + 1, 3 * one.lanes + 2):
            source = np.arange(1, 1 + max(1, count) * step).astype(one_dtype(one))
            to = np.zeros(count * times + 9, source.dtype)
            run_repeat(one, to, source, step, times, count)
            assert (to[: count * times] == np.repeat(source[::step][:count], times)).all()
            assert (to[count * times :] == 0).all()


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 17])
def test_windows_on_the_way_back_meet_what_the_way_there_met(stride):
    """Every meeting of an element of x, a place in the kernel and a window, once: before there are any channels."""
    rng = np.random.default_rng(stride)
    for _ in range(40):
        size, kernel, dilation, before, after = (int(n) for n in rng.integers((1, 1, 1, 0, 0), (20, 6, 4, 5, 5)))
        if size + before + after <= dilation * (kernel - 1):
            continue
        plan = geometry.conv(1, (1, 1, size), (1, 1, kernel), stride, ((before, after),), dilation, 1)
        places = range(plan.output_size[0])
        there = [(o * stride - before + k * dilation, k, o) for o in places for k in range(kernel)]
        back = lines.backward(geometry.lift(plan))
        met = [
            (residue.first[2] + q * back.apart[2], k, q + offset)
            for residue in back.residues
            for q in range(back.size[2])
            for offset, k in residue.taps[2]
        ]
        inside = [meeting for meeting in met if meeting[0] < size and 0 <= meeting[2] < len(places)]
        assert sorted(inside) == sorted(meeting for meeting in there if 0 <= meeting[0] < size)


@pytest.mark.parametrize("stride", [(1, 2), (2, 1), (2, 3), (4, 4), (3, 5), (6, 2)])
def test_the_input_gradient_of_every_stride(stride):
    """Residues woven into rows, stored by themselves, or reached by few taps: the same sums, to the last element."""
    rng = np.random.default_rng(sum(stride))
    for size in ((7, 23), (12, 40), (1, 5), (9, 3)):
        x = rng.integers(-3, 4, (2, 6, *size)).astype("float32")
        weight = rng.integers(-3, 4, (4, 3, 2, 3)).astype("float32")
        for padding in (1, (2, 0), ((0, 2), (1, 3))):
            grad = rng.integers(-3, 4, cnnkit.conv2d(x, weight, None, stride, padding, 1, 2).shape).astype("float32")
            with cnnkit.use_backend("numpy"):
                expected = cnnkit.conv2d_backward(grad, x, weight, stride, padding, 1, 2, needs=("x",)).x
            for given in (x, np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
                actual = cnnkit.conv2d_backward(grad, given, weight, stride, padding, 1, 2, needs=("x",)).x
                assert (actual == expected).all()  # small integers: no rounding


PANELS = [  # x, weight; stride, padding, dilation, groups
    ((2, 5, 9, 11), (7, 5, 3, 3), 2, 1, 1, 1),
    ((3, 4, 3, 5), (6, 2, 3, 2), 1, (1, 0), 1, 2),
    ((1, 8, 17, 19), (13, 8, 1, 1), 1, 0, 1, 1),
    ((2, 3, 40, 41), (4, 3, 5, 4), (1, 3), 2, (2, 1), 1),
    ((1, 4, 3, 5), (3, 4, 1, 1), 1, 0, 1, 1),
]


@pytest.fixture
def ways_anew():
    """Ways are found anew, in the test and behind it."""
    convolve._way.cache_clear()
    yield
    convolve._way.cache_clear()


@pytest.mark.parametrize("dtype", [str(dtype) for dtype in DTYPES])
@pytest.mark.parametrize("layer", PANELS, ids=str)
def test_windows_may_be_gathered_in_panels_or_not(layer, dtype, monkeypatch, ways_anew):
    """The same bits, forward and back to the input, channels last, too; and with an activation."""
    (x_shape, w_shape, *params), rng, find = layer, np.random.default_rng(0), convolve._tile
    x, weight = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    results = []
    for panels in (False, True):
        monkeypatch.setattr(convolve, "_tile", lambda *args, p=panels: (find(*args)[0], p, find(*args)[2]))
        convolve._way.cache_clear()
        with cnnkit.options(algorithm="direct"), cnnkit.use_backend("numba"):
            for given in (x, x[:, :, ::-1], last):
                y = cnnkit.conv2d(given, weight, weight[:, 0, 0, 0], *params)
                silu = cnnkit.conv2d(given, weight, None, *params, activation="silu")
                back = cnnkit.conv2d_backward(y, given, weight, *params, needs=("x",)).x
                results += [y, silu, back]
    half = len(results) // 2
    for without, with_panels in zip(results[:half], results[half:], strict=True):
        np.testing.assert_array_equal(without, with_panels)
    np.testing.assert_allclose(results[half], reference(x, weight, *params), rtol=1e-4, atol=1e-4)


def reference(x, weight, *params):
    with cnnkit.use_backend("numpy"):
        return cnnkit.conv2d(x, weight, weight[:, 0, 0, 0], *params)


@pytest.mark.parametrize("size", [(1, 1), (4, 3), (1, 5)])
def test_a_window_that_is_all_of_the_image_makes_a_dense_layer(size):
    """Forward, backward and transposed; results with gaps, channels last, no image, an activation."""
    rng = np.random.default_rng(sum(size))
    weight, bias = rng.integers(-3, 4, (6, 5, *size)).astype("float32"), rng.integers(-3, 4, 6).astype("float32")
    for batch in (0, 1, 7):
        x = rng.integers(-3, 4, (batch, 5, *size)).astype("float32")
        last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        for given in (x, last, x[::-1], x[:, ::-1]):
            with cnnkit.use_backend("numpy"):
                y = cnnkit.conv2d(given, weight, bias, activation="relu")
                grads = cnnkit.conv2d_backward(y, given, weight)
                back = cnnkit.conv_transpose2d(y, weight, bias[:5])
            out = np.zeros((*y.shape, 2), "float32")[..., 0]
            assert (cnnkit.conv2d(given, weight, bias, activation="relu", out=out) == y).all()
            assert (cnnkit.conv2d(given, weight, bias, activation="relu") == y).all()
            found = cnnkit.conv2d_backward(y, given, weight)
            assert all((a == b).all() for a, b in zip(found, grads, strict=True))
            assert (cnnkit.conv_transpose2d(y, weight, bias[:5]) == back).all()


def test_the_address_of_an_array_is_where_numpy_says():
    array = np.arange(24.0).reshape(2, 3, 4)
    still = array.view()
    still.flags.writeable = False
    for one in (array, still, array[1:, ::-1], array.T, array[:0], np.broadcast_to(array[0, 0, 0], (2, 2))):
        assert machine.address_of(one) == one.ctypes.data
    assert machine.address_of(None) == 0


LAYER_AFTER_LAYER = """
import resource
import numpy as np
import cnnkit
x, wide, narrow = (np.ones(shape, "float32") for shape in ((1, 24, 56, 56), (144, 24, 1, 1), (24, 144, 1, 1)))
faults = []
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    y = cnnkit.relu(cnnkit.conv2d(x, wide))
    z = cnnkit.conv2d(y, narrow)
    del y
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[4])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in other ways")
def test_results_take_the_memory_of_those_before():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", LAYER_AFTER_LAYER], env=environment, capture_output=True, text=True, check=True
    )
    pages = 2 * 144 * 56 * 56 * 4 // 4096
    assert int(done.stdout) < pages / 10
