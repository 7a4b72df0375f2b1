"""CUDA kernels as machine code, without a GPU; and the folders in which it is kept."""

import ast
import os
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cuda_code
import numpy as np
import pytest

pytest.importorskip("numba.cuda", reason="this Numba has no cuda module", exc_type=ImportError)
from cnnkit.rooms.cuda import compiler, cubins

NEEDS_TOOLCHAIN = pytest.mark.skipif(bool(cuda_code.missing()), reason=cuda_code.missing() or "-")
ROOM = Path(compiler.__file__).parent


# ---------------------------------------------------------------- what is kept on disk


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """An empty cache, and a compiler that only notes what it is asked for."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.delenv(cubins.BUILT, raising=False)
    calls = []
    monkeypatch.setattr(compiler, "machine_code", lambda *how: calls.append(how) or f"code of {how}".encode())
    return cubins.cache(), calls


def test_a_kernel_is_made_once(kept):
    folder, calls = kept
    codes = {compiler.code("maxima", "float32", (9, 0)) for _ in range(3)}
    assert len(codes) == len(calls) == len(list(folder.iterdir())) == 1
    compiler.code("maxima", "float64", (9, 0))
    compiler.code("maxima", "float32", (8, 0))
    assert len(calls) == len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-3], lambda b: b"", lambda b: b[:100] + b"?" + b[101:], lambda b: b + b" "]
)
def test_a_damaged_entry_is_made_anew(damage, kept):
    folder, calls = kept
    code = compiler.code("direct", "float32", (9, 0))
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert compiler.code("direct", "float32", (9, 0)) == code
    assert len(calls) == 2
    assert entry.read_bytes() == whole


def test_a_folder_that_cannot_be_is_no_error(kept):
    folder, calls = kept
    folder.parent.mkdir(parents=True)
    folder.write_text("no folder")  # which root cannot write into either
    for _ in range(2):
        assert compiler.code("direct", "float32", (9, 0)).startswith(b"code of")
    assert len(calls) == 2


def test_a_file_system_that_cannot_be_written_is_no_error(kept, monkeypatch):
    if not Path("/proc/self").exists():
        pytest.skip("this system has no /proc, which nobody writes files to")
    _, calls = kept
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/self")
    for _ in range(2):
        assert compiler.code("direct", "float32", (9, 0)).startswith(b"code of")
    assert len(calls) == 2


def test_a_full_disk_is_no_error(kept):
    """The system takes no more than 20 bytes of a file; what was begun is not left behind."""
    folder, calls = kept
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        for _ in range(2):
            assert compiler.code("direct", "float32", (9, 0)).startswith(b"code of")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(calls) == 2
    assert list(folder.iterdir()) == []


def test_many_may_write_at_once(kept):
    folder, _ = kept
    with ThreadPoolExecutor(8) as pool:
        codes = set(pool.map(lambda _: compiler.code("product", "float32", (9, 0)), range(40)))
    assert len(codes) == len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("changed", ["sources", "versions"])
def test_an_entry_belongs_to_the_sources_and_versions_of_today(changed, kept, monkeypatch):
    _, calls = kept
    compiler.code("product", "float32", (9, 0))
    monkeypatch.setattr(compiler, changed, lambda: "others")
    compiler.code("product", "float32", (9, 0))
    assert len(calls) == 2


# ---------------------------------------------------------------- what was built beforehand


@pytest.fixture
def built(kept, tmp_path, monkeypatch):
    """A folder with one kernel for 9.0 and one for 8.0."""
    folder = tmp_path / "built"
    monkeypatch.setattr(compiler, "compile_ptx", lambda name, dtype, capability: b"ptx")
    monkeypatch.setattr(compiler, "link", lambda ptx, capability: (b"\x7fELF of %d%d" % capability, ""))
    for capability in ((9, 0), (8, 0)):
        assert compiler.build("maxima", "float32", capability, folder) == 10
    monkeypatch.setenv(cubins.BUILT, str(folder))
    return folder


def test_what_was_built_beforehand_comes_first(built, kept, monkeypatch):
    """Whatever makes kernels here, and though it is nothing."""
    _, calls = kept
    assert compiler.code("maxima", "float32", (9, 0)) == b"\x7fELF of 90"
    monkeypatch.setattr(compiler, "versions", lambda: {"numba-cuda": "another one"})
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    assert compiler.code("maxima", "float32", (9, 0)) == b"\x7fELF of 90"
    assert not calls


@pytest.mark.parametrize(("capability", "code"), [((8, 0), b"80"), ((8, 6), b"80"), ((8, 9), b"80"), ((9, 0), b"90")])
def test_a_device_runs_what_was_built_for_an_older_one_of_its_kind(capability, code, built):
    assert compiler.code("maxima", "float32", capability) == b"\x7fELF of " + code


@pytest.mark.parametrize(
    "other", [("maxima", "float64", (9, 0)), ("direct", "float32", (9, 0)), ("maxima", "float32", (12, 0))]
)
def test_what_was_not_built_is_made(other, built, kept):
    assert compiler.code(*other).startswith(b"code of")
    assert kept[1] == [other]


def test_what_was_built_from_other_sources_is_not_taken(built, kept, monkeypatch):
    monkeypatch.setattr(compiler, "sources", lambda: "other sources")
    assert compiler.code("maxima", "float32", (9, 0)).startswith(b"code of")


def test_what_was_built_and_damaged_is_made(built):
    for path in built.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert compiler.code("maxima", "float32", (9, 0)).startswith(b"code of")


def test_what_cannot_be_built_is_an_error(built, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        compiler.build("maxima", "float32", (9, 0), tmp_path / "file")


def test_kernels_are_made_of_the_files_that_are_digested():
    """Those that know Numba, and they take nothing from the room's others, but where machine code is kept."""
    digested = {path.stem for path in ROOM.glob("*.py") if "numba" in cuda_imports(path)}
    for stem in digested:
        taken = {
            name.removeprefix("cnnkit.rooms.cuda.") for name in cuda_imports(ROOM / f"{stem}.py") if "cnnkit" in name
        }
        assert {name.partition(".")[0] for name in taken} - {"cnnkit", "cubins"} <= digested, stem


def cuda_imports(path):
    """What a file imports: modules of the room by their full name, others by their first."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "cnnkit.rooms.cuda":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module if node.module.startswith("cnnkit.rooms.cuda") else node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found


# ---------------------------------------------------------------- the compiler and the linker


def asked_for(name, dtype, capability):
    """Not all of them each time: a tensor-core kernel takes four seconds, and tests/cuda_code.py prints every one."""
    if name.startswith("matrix_"):
        return capability == (9, 0) and dtype != "bfloat16"
    if name == "matrix":
        return capability == (9, 0) or dtype == "float16"
    if dtype == "bfloat16":
        return capability == (9, 0) and name == "maxima"
    return capability == (9, 0) or dtype == "float32"


KERNELS = [
    (name, dtype, capability)
    for name, kernel in compiler.KERNELS.items()
    for dtype in kernel.dtypes
    for capability in cuda_code.TARGETS
    if asked_for(name, dtype, capability)
]
HOT = {  # what the innermost loop must hold
    "product": {"float32": {"FFMA": 64}, "float64": {"DFMA": 32}},
    "matrix": {key: {"HMMA": 32, "LDSM": 12, "LDGSTS": 4, "BAR": 1} for key in (*compiler.HALVES, "float32")},
    "matrix_slim": {key: {"HMMA": 16, "LDSM": 8, "LDGSTS": 3, "BAR": 1} for key in (*compiler.HALVES, "float32")},
    "matrix_back": {key: {"HMMA": 32, "LDSM": 12, "LDGSTS": 4, "BAR": 1} for key in compiler.HALVES},
    "matrix_back_slim": {key: {"HMMA": 16, "LDSM": 8, "LDGSTS": 3, "BAR": 1} for key in compiler.HALVES}
    | {"float32": {"HMMA": 16, "LDGSTS": 3, "BAR": 1}},
}


WIDTHS = {"P": ".u64", "q": ".u64", "i": ".u32", "f": ".f32", "d": ".f64"}


@NEEDS_TOOLCHAIN
@pytest.mark.parametrize(("name", "dtype", "capability"), KERNELS)
def test_machine_code_lives_in_registers(name, dtype, capability):
    """No stack and no spills, and room for the blocks that were asked for; PTX with the parameters that are packed.

    No division of 64 bits, and of float64 only what was asked for.
    """
    ptx = compiler.compile_ptx(name, dtype, capability)
    found = cuda_code.examine(name, ptx, capability)
    assert (found.stack, found.spilled) == (0, 0), found
    kernel = compiler.KERNELS[name]
    assert found.warps(capability) * 32 >= kernel.resident // kernel.threads * kernel.threads, found
    for word, count in HOT.get(name, {}).get(dtype, {}).items():
        assert found.loop[word] == count, found

    (head,) = re.findall(rf"\.entry cnnkit_{name}\((.*?)\)", ptx.decode(), re.DOTALL)
    assert re.findall(r"\.param +(?:\.\w+ +)*?(\.[ufb]\d+)", head) == [
        WIDTHS[one] for one in compiler.layout(name, dtype)
    ]
    assert not any(word in ptx for word in (b"div.u64", b"div.s64", b"rem.u64", b"rem.s64"))
    if dtype != "float64":
        assert b"fma.rn.f64" not in ptx
        assert name.startswith("averages") or b".f64" not in ptx  # their divisors are tables of float64


@NEEDS_TOOLCHAIN
def test_numba_compiles_beside_a_numpy_without_row_stack(monkeypatch):
    """That of NumPy 2.5, in a process that has not compiled yet."""
    code = (
        "import numpy as np\n"
        "del np.row_stack\n"
        "from cnnkit.rooms.cuda import compiler\n"
        "print(len(compiler.machine_code('averages', 'float32', (9, 0))))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000


@NEEDS_TOOLCHAIN
def test_a_device_that_the_linker_does_not_know_is_given_ptx(kept, monkeypatch, capfd):
    monkeypatch.undo()
    with pytest.raises(compiler.UnknownDeviceError, match="sm_990"):
        compiler.link(b"", (99, 0))
    assert compiler.machine_code("averages", "float32", (99, 0)).startswith(b"//")
    assert compiler.machine_code("averages", "float32", (9, 0)).startswith(b"\x7fELF")


@NEEDS_TOOLCHAIN
def test_ptx_that_the_linker_refuses_is_told_with_its_reason():
    ptx = b".version 99.0\n.target sm_80\n.address_size 64\n.visible .entry k(){ ret; }\n"
    with pytest.raises(RuntimeError, match=r"nvJitLink \d+\.\d+ refuses PTX: (?s:.*)Unsupported \.version 99\.0"):
        compiler.link(ptx, (9, 0))


@NEEDS_TOOLCHAIN
def test_without_a_linker_there_is_ptx_and_nothing_is_built(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "linker", lambda: None)
    assert compiler.machine_code("averages", "float32", (9, 0)).startswith(b"//")
    with pytest.raises(ImportError, match="pip install nvidia-nvjitlink"):
        compiler.build("averages", "float32", (9, 0), tmp_path)


@NEEDS_TOOLCHAIN
def test_what_drivers_are_needed_is_read_from_the_code(monkeypatch):
    assert compiler.driver_needed((9, 0)) == compiler.linker().version()[0] * 1000
    version = np.array(compiler.linker().version()) @ [1000, 10]
    monkeypatch.setattr(compiler, "code", lambda *how: compiler.compile_ptx(*how))
    assert compiler.driver_needed((9, 0)) == version  # one toolkit made both


# ---------------------------------------------------------------- the examination itself

LOOPS = """
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   LDG.E R3, [R4] ;
.L_x_2:
        /*0020*/                   FFMA R5, R6, R7, R5 ;
        /*0030*/                   FFMA.FTZ R5, R6, R7, R5 ;
        /*0040*/              @!P0 BRA `(.L_x_2) ;
        /*0050*/               @P1 BRA `(.L_x_1) ;
.L_x_3:
        /*0060*/                   MOV R3, R4 ;
        /*0070*/                   FFMA R5, R6, R7, R5 ;
        /*0080*/                   BRA `(.L_x_3) ;
"""


def test_the_hot_loop_is_the_innermost_that_computes_most():
    assert cuda_code.hot_loop(LOOPS) == {"FFMA": 2, "BRA": 1}


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "warps"),
    [(168, 128, 32 << 10, 12), (128, 256, 96 << 10, 16), (32, 128, 0, 64), (255, 256, 0, 8), (40, 1024, 0, 32)],
)
def test_occupancy_is_that_of_cudas_calculator(registers, threads, shared, warps):
    assert cuda_code.Examined(registers, 0, 0, shared, threads, {}).warps((9, 0)) == warps
