"""CUDA kernels as PTX and machine code, without a GPU; and the folder in which they are kept."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("numba.cuda", reason="this Numba has no cuda module", exc_type=ImportError)
from cnnkit.rooms.cuda import compiler

TARGETS = ((8, 0), (9, 0), (12, 0))
REGISTERS = 65536  # of a multiprocessor, of all these


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and a compiler that only counts."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    calls = []
    monkeypatch.setattr(compiler, "compile_ptx", lambda *how: calls.append(how) or f"ptx of {how}".encode())
    return compiler.folder(), calls


def test_a_kernel_is_compiled_once(folder):
    kept, calls = folder
    codes = {compiler.ptx("maxima", "float32", (9, 0)) for _ in range(3)}
    assert len(codes) == len(calls) == len(list(kept.iterdir())) == 1
    compiler.ptx("maxima", "float64", (9, 0))
    compiler.ptx("maxima", "float32", (8, 0))
    assert len(calls) == len(list(kept.iterdir())) == 3


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-3], lambda b: b"", lambda b: b[:100] + b"?" + b[101:], lambda b: b + b" "]
)
def test_a_damaged_entry_is_compiled_anew(damage, folder):
    kept, calls = folder
    code = compiler.ptx("direct", "float32", (9, 0))
    (entry,) = kept.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert compiler.ptx("direct", "float32", (9, 0)) == code
    assert len(calls) == 2
    assert entry.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_error(folder):
    kept, calls = folder
    kept.parent.mkdir(parents=True)
    kept.write_text("no folder")  # which root cannot write into either
    for _ in range(2):
        assert compiler.ptx("direct", "float32", (9, 0)).startswith(b"ptx of")
    assert len(calls) == 2


def test_many_may_write_at_once(folder):
    kept, _ = folder
    with ThreadPoolExecutor(8) as pool:
        codes = set(pool.map(lambda _: compiler.ptx("product", "float32", (9, 0)), range(40)))
    assert len(codes) == len(list(kept.iterdir())) == 1


def test_an_entry_belongs_to_the_sources_of_today(folder, monkeypatch):
    _, calls = folder
    compiler.ptx("product", "float32", (9, 0))
    monkeypatch.setattr(compiler, "_everything", lambda: ("other sources",))
    compiler.ptx("product", "float32", (9, 0))
    assert len(calls) == 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", compiler.KERNELS)
def test_machine_code_lives_in_registers(name, target, tmp_path):
    """No stack and no spills, and room for the blocks that were asked for; no division of 64 bits."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    for dtype in ("float32", "float64"):
        code = compiler.compile_ptx(name, dtype, target)
        assert code.count(f".entry cnnkit_{name}(".encode()) == 1
        assert not any(word in code for word in (b"div.u64", b"div.s64", b"rem.u64", b"rem.s64"))
        if dtype == "float32":
            assert b"fma.rn.f64" not in code
            assert name.startswith("averages") or b".f64" not in code  # their divisors are tables of float64
        report = assembled(code, target, tmp_path)
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report, (dtype, report)
        registers = int(report.split("Used ")[1].split()[0])
        assert registers * compiler.RESIDENT <= REGISTERS


def assembled(code, target, folder):
    """What ptxas says of the code."""
    ptxas = shutil.which("ptxas")
    try:
        import nvidia.cuda_nvcc as wheel

        ptxas = next(map(str, Path(wheel.__path__[0]).glob("bin/ptxas")), ptxas)
    except ImportError:
        pass
    if ptxas is None:
        pytest.skip("there is no ptxas to assemble with")
    (folder / "kernel.ptx").write_bytes(code)
    command = [
        ptxas,
        "-v",
        f"-arch=sm_{target[0]}{target[1]}",
        "-o",
        str(folder / "kernel.cubin"),
        str(folder / "kernel.ptx"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr
