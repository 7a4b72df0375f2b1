"""Topic: how far deeper layers see."""

from typing import Any

from cnnkit import analysis
from cnnkit.cli.page import figure, page, paragraph, table

SUBJECT = "how far deeper layers see"
STACK = tuple({"name": f"layer {number}", "kernel_size": 3} for number in (1, 2, 3))
ALEXNET = (  # Krizhevsky et al. 2012
    {"name": "conv1 11x11 /4", "kernel_size": 11, "stride": 4, "padding": 2},
    {"name": "pool1 3x3 /2", "kernel_size": 3, "stride": 2},
    {"name": "conv2 5x5", "kernel_size": 5, "padding": 2},
    {"name": "pool2 3x3 /2", "kernel_size": 3, "stride": 2},
    {"name": "conv3 3x3", "kernel_size": 3, "padding": 1},
    {"name": "conv4 3x3", "kernel_size": 3, "padding": 1},
    {"name": "conv5 3x3", "kernel_size": 3, "padding": 1},
    {"name": "pool5 3x3 /2", "kernel_size": 3, "stride": 2},
    {"name": "dense", "kernel_size": 6},
)


def text() -> str:
    """The page."""
    stack = analysis.receptive_field(STACK, 7)
    network = analysis.receptive_field(ALEXNET, 224)
    return page(
        paragraph("""A number of a feature map sees the pixels under its window, and through deeper layers the pixels
            under the windows of what it sees. With each layer the receptive field grows by (k - 1) x jump, where jump,
            how many pixels neighbours are apart, is the product of the strides so far."""),
        "Three layers of 3 x 3 on an image of 7 x 7:",
        table(("", "sees", "of the image"), *((row.name, _sees(row), _percent(row)) for row in stack)),
        "After which layer the number in the middle sees each pixel (0: itself):",
        _rings(stack),
        "A real network, AlexNet, on 224 x 224 (start: first pixel of the first number):",
        table(
            ("", "sees", "jump", "start", "of the image"),
            *((row.name, _sees(row), row.jump, row.start, _percent(row)) for row in network),
        ),
        paragraph(f"""Edges of {network[1].size} pixels, then textures of {network[2].size}, parts of
            {network[3].size} and more, at last the whole image: the hierarchy comes from depth, with small kernels.
            Three layers of 3 x 3 see as far as one of 7 x 7, with
            {3 * analysis.conv_parameters(1, 1, 3, bias=False)} weights for each pair of channels in place of
            {analysis.conv_parameters(1, 1, 7, bias=False)}. (What can be seen is not what counts: near its edges a
            receptive field has few paths to the middle, and little influence.)"""),
    )


def _sees(row: analysis.ReceptiveField) -> str:
    return f"{row.size} x {row.size}"


def _percent(row: analysis.ReceptiveField) -> str:
    return f"{100 * (row.coverage or 0):.3g} %"


def _rings(rows: list[analysis.ReceptiveField]) -> str:
    middle = 3
    reached = [[max(abs(i - middle), abs(j - middle)) for j in range(7)] for i in range(7)]
    first = {distance: next(n for n, row in enumerate(rows) if 2 * distance < row.size) for distance in range(4)}
    return "\n".join("    " + " ".join(str(first[distance]) for distance in line) for line in reached)


def draw() -> Any:
    """The stack and the network as nested squares."""
    shown = figure(13.5, 3.9)
    left, right = shown.subplots(1, 2)
    analysis.plot_receptive_field(STACK, 7, ax=left)
    left.set_title("Three layers of 3 x 3", loc="left")
    analysis.plot_receptive_field(ALEXNET, 224, ax=right)
    right.set_title("AlexNet", loc="left")
    return shown
