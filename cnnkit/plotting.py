"""What all figures share: where they are drawn, colours, and the sentence for those who have no matplotlib."""

from typing import Any

# Okabe & Ito's colours, which most people with a colour vision deficiency tell apart
BLUE, GREEN, ORANGE, PINK, SKY, GREY = "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "0.45"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, GREY)
MARKERS = "o^sDvP"  # a second sign beside the colour
SIGNED = "PuOr_r"  # orange: positive, white: 0, purple: negative; told apart by everybody


def axes(ax: Any, name: str) -> Any:
    """`ax`, or the Axes of a new pyplot figure where it is None; ImportError where `name` cannot be drawn."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(f'{name} needs matplotlib: pip install "cnnkit[plot]"') from None
    return plt.figure(layout="constrained").add_subplot()
