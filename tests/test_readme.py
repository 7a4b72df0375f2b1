"""What the README shows runs, and its figures stand where they were measured."""

import re
from pathlib import Path

import pytest
import strict_cupy

from cnnkit import dispatch

HERE = Path(__file__).parents[1]
README = (HERE / "README.md").read_text()


@pytest.fixture(params=["numpy", "cupy"])
def library(request, monkeypatch):
    """Of the arrays; CuPy's are those of the stand-in."""
    if request.param == "numpy":
        yield request.param
        return
    strict_cupy.install(monkeypatch)
    yield request.param
    monkeypatch.undo()
    for cached in (dispatch.why_not, dispatch._find):
        cached.cache_clear()


def test_the_ten_lines_run(library):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(block.splitlines()) == 10
    names: dict = {}
    exec(compile(block.replace("import numpy as xp", f"import {library} as xp"), "README.md", "exec"), names)
    assert type(names["x"]).__module__ == library
    assert names["grads"].weight.shape == names["w"].shape
    assert type(names["grads"].weight) is type(names["x"])


@pytest.mark.parametrize("command", ['".[plot]" && cnnkit compare', '".[test]" && python -m pytest'])
def test_the_readme_has_its_two_commands(command):
    assert f"```sh\npython -m pip install {command}\n```" in README


def test_its_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\((.*?)\)", README) if not link.startswith("https://")]
    assert len(links) >= 8
    for link in links:
        assert (HERE / link).is_file(), link


def test_its_speeds_are_those_of_the_races():
    """Whoever commits another race writes them anew. Two cells of each row are of one, two of the other."""
    races = [(HERE / "docs" / "race" / name).read_text() for name in ("race.md", "avx2/race.md")]
    rows = re.findall(r"^\| (\w[\w ]+?) [\d.]+, (forward|backward) \| (.+) \|$", README, re.MULTILINE)
    assert len(rows) == 3
    for peer, direction, cells in rows:
        of_each = [(race, threads) for race in races for threads in ("1 thread", "2 threads")]
        for (race, threads), cell in zip(of_each, cells.split(" | "), strict=True):
            mean, worst, lost = re.fullmatch(r"([\d.]+) \(([\d.]+); (\d+ of \d+)\)", cell).groups()
            begins = f"- {threads}, {direction}, against {peer}: geometric mean {mean}, worst {worst} "
            (line,) = [line for line in race.splitlines() if line.startswith(begins)]
            assert line.endswith(f", {lost} lost"), line
