"""What the README shows runs, in the order in which it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block.replace("epochs=5", "epochs=1"), "README.md", "exec"), names)
    assert names["grads"].weight.shape == names["w"].shape
    assert names["y"].shape == (8, 10)
    assert (tmp_path / "digits.safetensors").stat().st_size > 1000


@pytest.mark.parametrize("command", ['".[plot]" && cnnkit compare', '".[test]" && python -m pytest'])
def test_the_readme_has_its_two_commands(command):
    assert f"```sh\npython -m pip install {command}\n```" in README.read_text()
