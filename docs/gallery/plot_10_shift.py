"""
Digits that moved
=================

Three networks with about as many parameters learn digits in the centre of the canvas, and are tested on digits that
lie some pixels off. It is ``cnnkit compare`` with fewer epochs.
"""

import matplotlib.pyplot as plt
import numpy as np

from cnnkit import nn, optim
from cnnkit.datasets import Images, digits, shift, split

train, test = split(digits(canvas=16))
rng = np.random.default_rng(0)
networks = {
    "CNN, dense head": nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2, rng=rng), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dense(512, 10, rng=rng)),
    ),
    "CNN, global pooling": nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2, rng=rng), nn.ReLU()),
        *(nn.Conv2d(16, 24, 3, padding=1, rng=rng), nn.ReLU()),
        *(nn.Conv2d(24, 28, 3, padding=1, rng=rng), nn.ReLU()),
        *(nn.GlobalMaxPool2d(), nn.Flatten(), nn.Dense(28, 10, rng=rng)),
    ),
    "dense network": nn.Sequential(nn.Flatten(), nn.Dense(256, 38, rng=rng), nn.ReLU(), nn.Dense(38, 10, rng=rng)),
}


def accuracy(model, pixels):
    """The mean over digits moved down, up, right and left."""
    offsets = [(pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)]
    return np.mean([nn.evaluate(model, Images(shift(test.x, offset), test.labels))[1] for offset in offsets])


curves = {}
for name, model in networks.items():
    nn.fit(model, train, epochs=8, batch_size=32, optimizer=optim.Adam(optim.cosine(0.005)), progress=False)
    curves[name] = [accuracy(model, pixels) for pixels in range(5)]
    parameters = sum(array.size for array in model.parameters().values())
    print(f"{name:20} {parameters:,} parameters", *(f"{value:7.1%}" for value in curves[name]))

# %%
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for (name, values), colour, marker in zip(curves.items(), ("#0072B2", "#009E73", "#D55E00"), "os^", strict=True):
    ax.plot(100 * np.array(values), color=colour, marker=marker, linewidth=2, label=name)
ax.axhline(10, color="0.5", linestyle=":", label="guessing")
ax.set(xlabel="shift (pixels)", xticks=range(5), ylabel="accuracy on moved digits (%)", ylim=(0, 103))
ax.legend(frameon=False)
ax.grid(color="0.9")

# %%
# The dense network has learnt what a digit looks like in the centre, and nothing of other places. The CNN with a
# dense head finds the same features elsewhere, but its last layer has learnt where they lie. Global pooling does not
# ask where. Convolutions make features that move along; it is the head that must not care.
