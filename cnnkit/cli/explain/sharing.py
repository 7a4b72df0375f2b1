"""Topic: one filter for all places."""

from typing import Any

from cnnkit import analysis
from cnnkit.cli.page import figure, page, paragraph, table

SUBJECT = "9 weights in place of billions"
SIDES = (28, 64, 224)
NEURONS, FILTERS = 128, 16


def text() -> str:
    """The page."""
    rows = []
    for side in SIDES:
        saved = analysis.parameter_savings((1, side, side), NEURONS, FILTERS, 3, bias=False)
        rows.append((f"{side} x {side}", saved.dense, saved.conv, f"{saved.ratio:,.0f}"))
    one = analysis.parameter_savings((1, 224, 224), 1, 1, 3, bias=False)
    whole = analysis.parameter_savings((1, 224, 224), None, 1, 3, bias=False)
    return page(
        paragraph("""What an edge looks like does not depend on where it is. So a convolution learns a filter once and
            uses it everywhere, and the number of its weights does not depend on the size of the image."""),
        table(("grey image", f"{NEURONS} neurons", f"{FILTERS} filters of 3 x 3", "times"), *rows),
        paragraph(f"""One feature of a 224 x 224 image, found at one place: {one.dense:,} dense weights. Found
            anywhere: {one.conv}. That is {one.ratio:,.0f} times fewer."""),
        paragraph(f"""To find it everywhere, a dense layer needs a neuron for each place: {whole.dense:,} weights,
            {whole.ratio / 1e6:,.0f} million times as many as the {whole.conv} of the filter. Between the same pixels
            and the same answers the convolution has {whole.connections:,} connections: locality leaves out the others,
            and sharing ties these together, {whole.connections / whole.conv:,.0f} to each weight (see "matrix")."""),
        paragraph(f"""Every place where a filter is used is also a place from which it learns: an image of 224 x 224
            shows it {one.dense:,} small windows."""),
    )


def draw() -> Any:
    """Dense weights grow with the image, shared ones do not."""
    shown = figure(8, 3.6)
    counts = {}
    for side in SIDES:
        saved = analysis.parameter_savings((1, side, side), NEURONS, FILTERS, 3, bias=False)
        counts[f"{NEURONS} neurons, {side} x {side}"] = saved.dense
    filters = f"{FILTERS} filters of 3 x 3, any size"
    axes = analysis.plot_parameters(counts | {filters: saved.conv}, highlight=[filters], ax=shown.subplots())
    axes.set_title("Weights for grey images")
    return shown
