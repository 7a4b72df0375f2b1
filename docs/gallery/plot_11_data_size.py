"""
Dense networks memorise
=======================

Both networks of about one size learn from few digits and from many, at random places of the canvas. How far is what
they know of the images that they learnt from what they know of others?
"""

import matplotlib.pyplot as plt
import numpy as np

from cnnkit import nn, optim
from cnnkit.datasets import Images, digits, split

train, test = split(digits(canvas=12, placement="random", seed=0))
SIZES = (100, 200, 400, 800, 1400)


def cnn(rng):
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 24, 3, padding=1, rng=rng), nn.ReLU(), nn.GlobalMaxPool2d(), nn.Flatten()),
        nn.Dense(24, 10, rng=rng),
    )


def dense(rng):
    return nn.Sequential(nn.Flatten(), nn.Dense(144, 19, rng=rng), nn.ReLU(), nn.Dense(19, 10, rng=rng))


scores = {}
for name, build in {"CNN": cnn, "dense network": dense}.items():
    rows = []
    for size in SIZES:
        part = Images(train.x[:size], train.labels[:size])
        model = build(np.random.default_rng(0))
        epochs = 20_000 // size  # as many steps for few images as for many
        nn.fit(model, part, epochs=epochs, batch_size=32, optimizer=optim.Adam(optim.cosine(0.005)), progress=False)
        rows.append((nn.evaluate(model, part)[1], nn.evaluate(model, test)[1]))
    scores[name] = 100 * np.array(rows)
    print(name, sum(array.size for array in model.parameters().values()), "parameters")

# %%
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for (name, score), colour in zip(scores.items(), ("#0072B2", "#D55E00"), strict=True):
    ax.plot(SIZES, score[:, 0], color=colour, linestyle=":", marker="o", label=f"{name}, on its training images")
    ax.plot(SIZES, score[:, 1], color=colour, marker="o", linewidth=2, label=f"{name}, on others")
ax.set(xscale="log", xticks=SIZES, xticklabels=SIZES, ylim=(0, 103), xlabel="training images", ylabel="accuracy (%)")
ax.minorticks_off()
ax.legend(frameon=False)
ax.grid(color="0.9")

# %%
# The dense network learns its few images by heart and knows little of others; every place of a digit is another thing
# to it. With more images the gap closes slowly. The CNN finds a stroke wherever it is, and needs fewer images to see
# enough of them.
