"""``cnnkit explain`` and ``cnnkit summary``, run as a user runs them."""

import re

import pytest

import cnnkit
from cnnkit import analysis, nn
from cnnkit.cli import main
from cnnkit.cli.explain import TOPICS

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def pages():
    """What each topic prints."""
    import contextlib
    import io

    pytest.importorskip("scipy", reason="the matrix topic makes a sparse matrix")
    shown = {}
    for topic in TOPICS:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["explain", topic]) == 0
        shown[topic] = out.getvalue()
    return shown


def words(page):
    return re.sub(r"\s+", " ", page)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_fits_any_terminal(pages, topic):
    lines = pages[topic].splitlines()
    assert len(lines) > 15
    assert max(map(len, lines)) <= 80
    assert pages[topic].isascii()  # and so is right in every encoding
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize(
    ("topic", "needed"),
    [
        ("parameters", ["78,500", "3,073,000", "150,529,000", "786,433,000", "6,291,968", "4,864", "1,294", "10^1888"]),
        ("parameters", ["often printed as 6,221,801,000. That is wrong", "are 6,220,801,000"]),
        ("parameters", ["4,000,000 to 8,000,000", "750,000,000 to 1,500,000,000", "1,281,167 images in ImageNet"]),
        ("locality", ["photograph 0.91", "13 of 49 entries differ", "17 of 25 is often printed. It is 9"]),
        ("sharing", ["100,352 144 697", "5,575 times fewer", "2,517,630,976", "280 million times", "448,900"]),
        ("receptive-field", ["2.04 %", "7 x 7 100 %", "19 x 19", "51 x 51", "355 x 355"]),
        ("equivariance", ["convolution 3 x 3 5 0", "without 1 pixel of border 5 0", "convolution with stride 2 4 0"]),
        ("pooling", ["global max 0 0 0 0 0 0 0 0"]),
        ("matrix", ["matrix of 16 x 36 with 9 entries in every row, 144 of 576, and 9 different ones"]),
        ("sobel", ["-2 0 2", "9 numbers each"]),
        ("slide", ["(1 x -1) + (2 x 0) + (0 x 1) + (0 x -2) + (1 x 0) + (2 x 2) + (2 x -1) + (0 x 0) + (1 x 1) = 2"]),
        ("slide", ["cnnkit.conv2d gives the same nine numbers"]),
        ("when-not", ["position", "distance", "order: their pixels shuffled"]),
    ],
)
def test_a_page_has_its_numbers(pages, topic, needed):
    shown = words(pages[topic])
    for one in needed:
        assert one in shown, one


def test_without_a_topic_they_are_listed(capsys):
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == list(TOPICS)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("topic", TOPICS)
def test_each_topic_has_a_figure(topic, tmp_path, capsys, pages):
    pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib")
    target = tmp_path / "figure.png"
    assert main(["explain", topic, "--save", str(target)]) == 0
    assert capsys.readouterr().out == f"{pages[topic]}\nwrote {target}\n"
    assert target.read_bytes()[:8] == PNG_MAGIC


def test_the_same_svg_is_the_same_file(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib")
    for name in ("one.svg", "two.SVG"):
        assert main(["explain", "sharing", "--save", str(tmp_path / name)]) == 0
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.SVG"))
    assert b"<svg" in one
    assert b"<dc:date>" not in one
    assert len(one) == len(two)


def test_the_slide_moves(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib")
    image = pytest.importorskip("PIL.Image", reason="it comes with matplotlib")
    target = tmp_path / "slide.gif"
    assert main(["explain", "slide", "--gif", str(target)]) == 0
    assert capsys.readouterr().out.endswith(f"\nwrote {target}\n")
    with image.open(target) as gif:
        assert (gif.n_frames, gif.info["duration"]) == (9, 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["slide.gif"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["sobel", "--save", "figure.pdf"],
            "--save is figure.pdf, but a topic and a file name that ends in .png",
        ),
        (["--save", "figure.png"], "--save is figure.png, but a topic and a file name that ends in "),
        (["sobel", "--gif", "a.gif"], "--gif is a.gif, but only slide moves, and a file name that ends in .gif"),
        (["slide", "--gif", "a.png"], "--gif is a.png, but only slide moves, and a file name that ends in .gif"),
        (["slide", "--save", "nowhere/a.png"], "nowhere/a.png cannot be written: there is no folder "),
    ],
)
def test_what_cannot_be_written_is_told_first(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"cnnkit explain: {message}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_topic(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["explain", "backpropagation"])
    assert exit_.value.code == 2
    assert "invalid choice: 'backpropagation'" in capsys.readouterr().err


def test_a_page_needs_no_matplotlib_and_no_compiler(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["explain", "sharing"]) == 0
    assert main(["explain", "sharing", "--save", "a.png"]) == 2
    out, err = capsys.readouterr()
    assert 'run pip install "cnnkit[plot]"' in err
    assert out.count("6,422,528") == 1  # nothing was printed the second time


# summary


@pytest.fixture
def saved(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, rng=0), nn.ReLU(), nn.GlobalMaxPool2d(), nn.Flatten(), nn.Dense(8, 10))
    model.save(tmp_path / "model.safetensors")
    return model, str(tmp_path / "model.safetensors")


def test_summary_of_a_saved_model(saved, capsys):
    model, path = saved
    assert main(["summary", path, "--input-shape", "1,3,32,32"]) == 0
    shown = capsys.readouterr().out
    assert shown == f"{analysis.summary(model, (1, 3, 32, 32))}\n"
    assert "Sequential, given 1x3x32x32 float32" in shown


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("1,4,32,32", "cnnkit summary: x has 4 channels, but weight of shape (8, 3, 3, 3) with groups=1 needs 3\n"),
        ("3,2,2", "cnnkit summary: a window of 3 with dilation 1 spans 3 along H, but x has 2 there, 2 with padding\n"),
    ],
)
def test_a_shape_that_does_not_fit(saved, shape, message, capsys):
    assert main(["summary", saved[1], "--input-shape", shape]) == 2
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("shape", ["1,3,32,", "a", "1,0,3", "-1,3", ""])
def test_a_shape_that_is_none(saved, shape, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["summary", saved[1], f"--input-shape={shape}"])
    assert exit_.value.code == 2
    assert "but positive whole numbers such as 1,3,32,32 are needed" in capsys.readouterr().err


def test_a_file_that_is_no_model(tmp_path, capsys):
    assert main(["summary", str(tmp_path / "none"), "--input-shape", "1,2"]) == 2
    (tmp_path / "some").write_bytes(b"x" * 100)
    assert main(["summary", str(tmp_path / "some"), "--input-shape", "1,2"]) == 2
    assert capsys.readouterr().err.count("cnnkit summary: ") == 2


def test_a_summary_chooses_no_backend_for_what_comes_after(saved):
    before = cnnkit.dispatch.current_backend()
    saved[0].summary((1, 3, 8, 8))
    assert cnnkit.dispatch.current_backend() == before
