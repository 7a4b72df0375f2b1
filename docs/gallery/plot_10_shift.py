"""
Digits that moved
=================

Three networks of about one size (10,262 to 13,162 parameters) learn digits in the centre of a canvas, and are tested
on digits that lie anywhere on it. This page draws what ``cnnkit compare --experiment shift`` wrote (about a minute on
two cores, each network trained three times), and at its end trains one of them as the site is built.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from cnnkit import nn, optim
from cnnkit.datasets import Images, digits, shift, split

results = json.loads(Path("../experiments/shift.json").read_text())  # yours: compare-results/shift.json
maps = {}  # of each network, (trainings, down, right): per cent right with the digits moved there
for network in results["networks"]:
    maps.setdefault(network["name"], []).append(100 * np.array(network["test_accuracy"]))

COLOURS = dict(zip(maps, ("#0072B2", "#009E73", "#D55E00"), strict=True))
steps = np.arange(7)


def curves(found):
    """Against the number of pixels: the mean over up, down, right and left."""
    found = np.array(found)
    return (found[:, 6 + steps, 6] + found[:, 6 - steps, 6] + found[:, 6, 6 + steps] + found[:, 6, 6 - steps]) / 4


figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for (name, found), marker in zip(maps.items(), "os^", strict=True):
    several = curves(found)
    ax.plot(several.mean(axis=0), color=COLOURS[name], marker=marker, linewidth=2, label=name)
    ax.fill_between(steps, several.min(axis=0), several.max(axis=0), color=COLOURS[name], alpha=0.15, linewidth=0)
    print(f"{name:20}", *(f"{value:6.1f}" for value in several.mean(axis=0)), " right (%), so many pixels off")
ax.axhline(10, color="0.5", linestyle=":", label="guessing")
ax.set(xlabel="pixels off", xticks=steps, ylabel="right (%)", ylim=(0, 103))
ax.legend(frameon=False)
ax.grid(color="0.9")

# %%
# The same for every place of the canvas. Bright: the digit may lie there.

figure, panels = plt.subplots(1, 3, figsize=(8.4, 3), layout="constrained")
for ax, (name, found) in zip(panels, maps.items(), strict=True):
    drawn = ax.imshow(np.mean(found, axis=0), vmin=0, vmax=100, cmap="cividis", extent=(-6.5, 6.5, 6.5, -6.5))
    ax.set(title=name, xlabel="pixels to the right", xticks=(-6, 0, 6), yticks=(-6, 0, 6))
panels[0].set_ylabel("pixels down")
figure.colorbar(drawn, ax=panels, label="right (%)", shrink=0.9)

# %%
# The dense network has learnt what a digit looks like in the centre, and nothing of other places: one pixel halves what
# it knows, two are enough for guessing. The CNN with a dense head finds the same features elsewhere, but its last layer
# has learnt where they lie; its poolings forgive a pixel in part. Global pooling does not ask where, and loses a per
# cent only at the very edge, where the windows see less. Convolutions make features that move along; it is the head
# that must not care.
#
# One training of the dense network, now, beside that of the file:

train, test = split(digits(canvas=20))
rng = np.random.default_rng(0)
model = nn.Sequential(nn.Flatten(), nn.Dense(400, 32, rng=rng), nn.ReLU(), nn.Dense(32, 10, rng=rng))
nn.fit(model, train, epochs=8, batch_size=32, optimizer=optim.Adam(optim.cosine(0.005)), progress=False)
for pixels in (0, 1, 2, 4):
    moved = Images(shift(test.x, (0, pixels)), test.labels)
    then = maps["dense network"][0][6, 6 + pixels]
    print(f"{pixels} to the right: {100 * nn.evaluate(model, moved)[1]:5.1f} % right, in the file {then:5.1f} %")
