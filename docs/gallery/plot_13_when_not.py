"""
Where dense layers win
======================

A convolution assumes that neighbours belong together and that a pattern means the same everywhere. Where that is not
so, it is the wrong tool. A CNN (two convolutions, global maximum, dense) and a dense network of about its size learn
where a bright pixel is, and digits whose pixels were shuffled, all in the same way, as the columns of a table come in
any order.
"""

import matplotlib.pyplot as plt
import numpy as np

from cnnkit import nn, optim
from cnnkit.datasets import Images, digits, split

rng = np.random.default_rng(0)


def halves(count):
    """One bright pixel in the left half (0) or in the right one (1), away from the border."""
    x = np.zeros((count, 1, 16, 16), "float32")
    rows, columns = rng.integers(4, 12, (2, count))
    x[np.arange(count), 0, rows, columns] = 1
    return Images(x, (columns >= 8).astype("int64"))


def shuffled(images, order):
    return Images(images.x.reshape(-1, 64)[:, order].reshape(images.x.shape), images.labels)


def learn(model, train, test):
    nn.fit(model, train, epochs=12, batch_size=32, optimizer=optim.Adam(optim.cosine(0.005)), progress=False)
    return 100 * nn.evaluate(model, test)[1]


train, test = split(digits())
order = rng.permutation(64)
tasks = {
    "left or right?": (halves(1000), halves(500), 5),
    "digits, shuffled": (shuffled(train, order), shuffled(test, order), 20),
    "digits, as they are": (train, test, 20),
}
results = {}
for task, (known, unknown, hidden) in tasks.items():
    classes, pixels = int(known.labels.max()) + 1, known.x[0].size
    cnn = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, rng=0), nn.ReLU(), nn.Conv2d(8, 16, 3, rng=1), nn.ReLU()),
        *(nn.GlobalMaxPool2d(), nn.Flatten(), nn.Dense(16, classes, rng=2)),
    )
    dense = nn.Sequential(nn.Flatten(), nn.Dense(pixels, hidden, rng=0), nn.ReLU(), nn.Dense(hidden, classes, rng=1))
    results[task] = learn(cnn, known, unknown), learn(dense, known, unknown)

figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
places = np.arange(len(results))
for offset, which, name, colour in ((0.2, 0, "CNN", "#0072B2"), (-0.2, 1, "dense network", "#D55E00")):
    bars = ax.barh(places + offset, [pair[which] for pair in results.values()], 0.38, color=colour, label=name)
    ax.bar_label(bars, fmt="%.0f %%", padding=4)
ax.set(yticks=places, yticklabels=list(results), xlim=(0, 112), xlabel="accuracy on images not seen before (%)")
ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
ax.spines[["top", "right"]].set_visible(False)

# %%
# Left or right: the CNN answers a moved image with the same number, by construction; it can but guess. Shuffled
# digits are the same to the dense network as before; the CNN looks for patterns among neighbours that are none. And
# as they are, digits of 8 x 8 pixels are small enough for a dense network too. Nearly every CNN ends in a dense
# layer.
