"""The pages of the site say what is so: their code runs, their tables are true, no public name is missing."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import cnnkit
from cnnkit import analysis

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {page: (DOCS / f"{page}.md").read_text() for page in ("index", "quickstart", "coming_from", "errors")}


@pytest.mark.parametrize("page", ["index", "quickstart"])
def test_the_code_of_a_page_runs_in_order(page, tmp_path, monkeypatch, threads):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)
    here = [block for block in blocks if "import cupy" not in block]
    assert len(here) == {"index": 1, "quickstart": 5}[page]
    names: dict = {}
    for block in here:
        exec(compile(block.replace("epochs=3", "epochs=1"), page, "exec"), names)
    if page == "quickstart":
        assert names["y"].shape == (8, 16, 16, 16)
        assert names["history"].val_accuracy[-1] > 0.5
        np.testing.assert_allclose(names["plain"], names["direct"], rtol=1e-4, atol=1e-5)


def rows(section):
    """The two columns of code of a section's first table; of a cell with two calls, the last column is run."""
    text = PAGES["coming_from"].split(f"\n## {section}\n")[1].split("\n## ")[0].split("\n\n|", 1)[1].split("\n\n")[0]
    lines = [line.strip(" |").split(" | ") for line in f"|{text}".splitlines()[2:]]
    return [(line[0].strip("`"), line[1].strip(" |").strip("`")) for line in lines]


def arrays():
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 4, 8, 8), "w": (6, 4, 3, 3), "b": (6,), "wt": (4, 3, 3, 3), "f": (5, 7), "wd": (3, 7)}
    shapes |= {"bd": (3,), "wl": (3, 256), "image": (9, 11), "k3": (3, 3), "k2": (2, 2)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()} | {"t": np.array([0, 3, 1, 6, 2])}


def ours(code):
    return np.asarray(eval(code, {"cnnkit": cnnkit, "analysis": analysis, **arrays()}))


@pytest.mark.parametrize(("theirs", "code"), rows("PyTorch"))
def test_pytorch_s_calls_and_ours_are_equal(theirs, code, threads):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensors = {name: torch.from_numpy(array) for name, array in arrays().items()}
    expected = eval(theirs, {"F": torch.nn.functional, **tensors}).numpy()
    np.testing.assert_allclose(ours(code), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("theirs", "code"), rows("SciPy"))
def test_scipy_s_calls_and_ours_are_equal(theirs, code, threads):
    pytest.importorskip("scipy", reason="SciPy is not installed")
    from scipy import ndimage, signal, special

    expected = eval(theirs, {"ndimage": ndimage, "signal": signal, "special": special, **arrays()})
    np.testing.assert_allclose(ours(code), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("theirs", "code"), rows("Chainer"))
def test_what_stands_beside_chainer_s_calls_runs(theirs, code, threads):
    assert np.isfinite(ours(code)).all()


@pytest.mark.parametrize("module", ["", "nn", "optim", "datasets", "analysis"])
def test_every_public_name_has_its_entry(module):
    home = getattr(cnnkit, module) if module else cnnkit
    pages = [DOCS / "api" / f"{module}.rst"] if module else (DOCS / "api").glob("*.rst")
    documented = re.findall(r"^\.\. auto(?:function|class):: (\w+)$", "\n".join(map(Path.read_text, pages)), re.M)
    public = [name for name in home.__all__ if not name.startswith("__") and not inspect.ismodule(getattr(home, name))]
    assert set(public) <= set(documented)
    assert len(documented) == len(set(documented))
