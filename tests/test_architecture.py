"""The house rules that a machine can hold: who imports whom, what rooms offer, what jitted code does not do."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cnnkit
from cnnkit import rooms

PACKAGE = Path(cnnkit.__file__).parent
ORDER = ("geometry", "arrays", "dispatch", "foreign", "ops", "nn", "analysis", "cli")  # imports go to the left
BESIDE = {
    "_version": (),
    "files": ("arrays",),
    "datasets": ("files", "geometry", "arrays"),
    "optim": ("arrays", "geometry"),
    "plotting": (),
    "config": ("_version", "dispatch", "rooms"),
    "settings": ("geometry",),
    "warming": ("geometry", "arrays", "dispatch", "ops", "nn", "settings"),
    "halves": ("arrays", "settings"),
    "interop": (),
}
ROOMS = ("array", "numba")


def modules(*parts: str) -> list[Path]:
    folder = PACKAGE.joinpath(*parts)
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported(path: Path) -> set[str]:
    """The modules that a file imports, in dotted names, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_parts(path: Path) -> set[str]:
    """Which parts of cnnkit a file imports: the first name after ``cnnkit.``."""
    known = {entry.stem for entry in PACKAGE.iterdir()}
    return {name.split(".")[1] for name in imported(path) if name.startswith("cnnkit.")} & known


@pytest.mark.parametrize("part", ORDER)
def test_imports_go_one_way(part):
    left = {*ORDER[: ORDER.index(part) + 1]}
    allowed = {
        "arrays": left - {"geometry"},
        "dispatch": left | {"halves"},
        "nn": left | {"optim", "files", "plotting", "analysis"},  # the last for Layer.summary, when it is called
        "analysis": left | {"datasets", "plotting"},
        "cli": left | {"optim", "files", "datasets", "config", "rooms", "plotting", "warming", "_version"},
    }.get(part, left)
    for path in modules(part):
        assert imported_parts(path) <= allowed, path


@pytest.mark.parametrize("part", BESIDE)
def test_the_parts_beside_import_little(part):
    for path in modules(part):
        assert imported_parts(path) <= {part, *BESIDE[part]}, path


@pytest.mark.parametrize("room", [*ROOMS, "cuda"])
def test_a_room_imports_plans_arrays_and_itself(room):
    for path in modules("rooms", room):
        beside = {"halves"} if room == "cuda" else set()  # which it computes itself, or leaves to float32
        assert imported_parts(path) <= {"geometry", "arrays", "settings", "rooms", "files"} | beside, path
        others = [name for name in imported(path) if name.startswith("cnnkit.rooms.")]
        below = ("array",) if room == "cuda" else ()  # it has not everything itself
        assert all(name.split(".")[2] in (room, "threads", "normal", *below) for name in others), path


@pytest.mark.parametrize(
    ("heavy", "room"),
    [
        *(("numba", "rooms/numba rooms/cuda"), ("llvmlite", "rooms/numba rooms/cuda"), ("cupy", "rooms/cuda")),
        *(("torch", "interop/torch.py"), ("jax", "nowhere"), ("ml_dtypes", "nowhere")),
    ],
)
def test_heavy_libraries_stay_in_their_room(heavy, room):
    for path in modules():
        if not any(path.is_relative_to(PACKAGE / one) for one in room.split()):
            assert heavy not in {name.split(".")[0] for name in imported(path)}, path


def test_importing_cnnkit_imports_nothing_heavy():
    heavy = ("numba", "llvmlite", "cupy", "scipy", "matplotlib", "tqdm", "safetensors", "torch", "ml_dtypes")
    code = (
        "import sys, cnnkit; cnnkit.conv2d, cnnkit.nn, cnnkit.optim, cnnkit.analysis; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def contract() -> dict[str, list[str]]:
    """Op names and parameters, as the docstring of `cnnkit.rooms` has them."""
    table = inspect.getdoc(rooms).split("\n====")[1].split("\n", 1)[1]
    rows = [line.replace(",", "").split() for line in table.splitlines()]
    return {op: parameters for op, *parameters in rows}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_keep_the_contract(room):
    module = importlib.import_module(f"cnnkit.rooms.{room}")
    assert set(module.__all__) == set(contract())
    for op, parameters in contract().items():
        assert list(inspect.signature(getattr(module, op)).parameters) == parameters, op


def test_the_contract_is_read_whole():
    assert len(contract()) == 29


def test_jitted_code_raises_nothing():
    """Arguments are checked at the door; a kernel's first line is arithmetic."""
    kernels = 0
    for path in modules("rooms", "numba"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "kernel" in [getattr(d, "id", "") for d in node.decorator_list]:
                kernels += 1
                assert not any(isinstance(inner, ast.Raise | ast.Assert | ast.Try) for inner in ast.walk(node)), (
                    node.name
                )
    assert kernels > 10


def test_shapes_are_solved_in_geometry_alone():
    """No second copy of the output size: nobody else divides by a stride."""
    for path in modules():
        if path.name != "geometry.py" and not path.is_relative_to(PACKAGE / "rooms"):
            divisions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.BinOp)]
            divisors = [ast.unparse(node.right) for node in divisions if isinstance(node.op, ast.FloorDiv | ast.Div)]
            assert not any("stride" in divisor for divisor in divisors), path


def test_public_names_exist_and_are_documented():
    for name in cnnkit.__all__:
        value = getattr(cnnkit, name)
        if name != "__version__":
            assert inspect.getdoc(value), name
    assert set(cnnkit.__all__) <= set(dir(cnnkit))
    with pytest.raises(AttributeError, match="no attribute 'conv4d'"):
        cnnkit.conv4d  # noqa: B018


def public_functions() -> list[str]:
    return [name for name in cnnkit.__all__ if inspect.isfunction(getattr(cnnkit, name))]


def public_objects() -> dict[str, Any]:
    """Functions and classes of the public modules, and the methods that these classes define."""
    found: dict[str, Any] = {}
    for module in ("nn", "optim", "datasets"):
        for name in getattr(cnnkit, module).__all__:
            value = getattr(getattr(cnnkit, module), name)
            if inspect.isroutine(value) or inspect.isclass(value):
                found[f"{module}.{name}"] = value
            for method, one in vars(value).items() if inspect.isclass(value) else ():
                function = one.__func__ if isinstance(one, classmethod) else one
                if inspect.isfunction(function) and not method.startswith("_") and function.__doc__:
                    found[f"{module}.{name}.{method}"] = function
    return found


@pytest.mark.parametrize("name", public_objects())
def test_the_docstrings_of_modules_have_their_sections(name):
    value = public_objects()[name]
    text = inspect.getdoc(value) or ""
    assert "Examples\n--------\n>>> " in text
    signature = inspect.signature(value)
    parameters = [one.lstrip("*") for one in signature.parameters if one not in ("self", "cls")]
    if parameters and not re.search(r"Parameters[^.]* those\s+of\s+`\w+`|\nAttributes\n-----", text):
        assert "Parameters\n----------" in text
        for parameter in parameters:
            assert re.search(rf"\b{parameter}\b", text), parameter
    returns = signature.return_annotation
    if inspect.isfunction(value) and returns not in (None, "None", signature.empty):
        assert "Returns\n-------" in text


@pytest.mark.parametrize("name", public_functions())
def test_docstrings_have_their_sections(name):
    text = inspect.getdoc(getattr(cnnkit, name))
    assert "Examples\n--------\n>>> " in text
    assert not re.search(r"@(n|in|out|kernel)\b", text)
    if name not in ("backends", "get_num_threads", "show_config"):
        for parameter in inspect.signature(getattr(cnnkit, name)).parameters:
            assert parameter in text, parameter
        assert "Parameters\n----------" in text
        assert "Raises\n------" in text
    if name not in ("options", "set_num_threads", "show_config", "use_backend"):
        assert "Returns\n-------" in text
