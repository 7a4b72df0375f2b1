"""Topic: how many numbers a layer learns."""

import math
from typing import Any

from cnnkit import analysis
from cnnkit.analysis.plots import DATASETS
from cnnkit.analysis.summaries import in_units
from cnnkit.cli.page import figure, page, paragraph, table

SUBJECT = "how many numbers a layer learns"

DENSE = (  # inputs, outputs
    ((1, 28, 28), 100),
    ((1, 28, 28), 1000),
    ((3, 32, 32), 1000),
    ((3, 64, 64), 512),
    ((3, 200, 200), 1000),
    ((3, 224, 224), 1000),
    ((3, 224, 224), 1024),
    ((3, 512, 512), 1000),
    ((3, 1920, 1080), 1000),
)
CONV = ((1, 8, 3), (3, 32, 3), (1, 16, 3), (3, 64, 5), (64, 64, 3), (512, 512, 3))  # channels in, out, kernel


def text() -> str:
    """The page."""
    hd = math.prod(DENSE[-1][0])
    small = analysis.parameter_savings((1, 28, 28), 128, 16, 3, bias=False)
    large = analysis.parameter_savings((3, 64, 64), 512, 64, 5)
    return page(
        paragraph("""A dense layer gives every output a weight for every number of the image, and a bias:
            inputs x outputs + outputs. A convolution has one small filter for each output channel: kernel x kernel x
            channels in x channels out + channels out, whatever the size of the image."""),
        table(("dense layer", "parameters", "float32"), *(_dense_row(shape, n) for shape, n in DENSE)),
        paragraph(f"""The last line is often printed as 6,221,801,000. That is wrong: 1920 x 1080 x 3 = {hd:,} inputs,
            times 1,000 outputs, plus 1,000 biases, are {analysis.dense_parameters(hd, 1000):,}."""),
        table(("convolution", "parameters", "float32"), *(_conv_row(*layer) for layer in CONV)),
        paragraph(f"""128 dense neurons on 28 x 28 pixels against 16 filters of 3 x 3: {small.dense:,} weights against
            {small.conv:,}, {small.ratio:.1f} times as many. 512 neurons on 64 x 64 x 3 against 64 filters of 5 x 5,
            biases included: {large.dense:,} against {large.conv:,}, {large.ratio:,.0f} times as many."""),
        "Examples to learn from: 5 to 10 for each parameter, as a rule of thumb.",
        table(("parameters", "examples asked for"), *(_examples_row(n) for n in (800_000, 3_000_000, 150_000_000))),
        paragraph(f"There are {', '.join(f'{n:,} images in {name}' for name, n in DATASETS.items())} to train on."),
        paragraph(f"""And examples never fill the space: there are 10^{_power(28 * 28)} possible grey images of
            28 x 28 pixels, and 10^{_power(224 * 224 * 3)} colour images of 224 x 224. What saves parameters saves
            examples: see "sharing"."""),
    )


def _dense_row(shape: tuple[int, int, int], outputs: int) -> tuple[str, int, str]:
    channels, height, width = shape
    count = analysis.dense_parameters(math.prod(shape), outputs)
    size = f"{height} x {width}" + (f" x {channels}" if channels > 1 else "")
    return f"{size} -> {outputs}", count, in_units(4 * count, "B")


def _conv_row(channels: int, filters: int, kernel: int) -> tuple[str, int, str]:
    count = analysis.conv_parameters(channels, filters, kernel)
    return f"{kernel} x {kernel}, {channels} -> {filters} channels", count, in_units(4 * count, "B")


def _examples_row(count: int) -> tuple[int, str]:
    least, most = analysis.training_examples_needed(count)
    return count, f"{least:,} to {most:,}"


def _power(pixels: int) -> str:
    return f"{math.floor(math.log10(analysis.possible_images(pixels)))}"


def draw() -> Any:
    """Layers, and what they ask for."""
    shown = figure(12, 4.8)
    left, right = shown.subplots(1, 2)
    dense = {_dense_row(shape, n)[0]: _dense_row(shape, n)[1] for shape, n in DENSE if n != 1024}
    conv = {_conv_row(*layer)[0]: _conv_row(*layer)[1] for layer in CONV[3:]}
    analysis.plot_parameters(dense | conv, highlight=list(conv), ax=left)
    left.set_title("Dense layers (blue) and convolutions (orange)")
    analysis.plot_training_examples({f"{n:,}\nparameters": n for n in (800_000, 3_000_000, 150_000_000)}, ax=right)
    right.set_title("What they ask for")
    return shown
