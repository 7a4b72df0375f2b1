"""
Dense networks memorise
=======================

Networks of about one size (7,915 to 10,262 parameters) learn from few digits and from many, at random places of the
canvas, in as many steps. How right are they of the digits that they learnt from, and of others? This page draws what
``cnnkit compare --experiment data-size`` wrote (about a minute on two cores, each network trained three times with each
number of digits), and at its end runs one case as the site is built.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from cnnkit import nn, optim
from cnnkit.datasets import Images, digits, split

results = json.loads(Path("../experiments/data-size.json").read_text())  # yours: compare-results/data-size.json
sizes = sorted({network["images"] for network in results["networks"]})
scores = {}  # of each network, (numbers of digits, 2): per cent right of known digits, and of others
for name in dict.fromkeys(network["name"] for network in results["networks"]):
    scores[name] = np.zeros((len(sizes), 2))
    for network in (one for one in results["networks"] if one["name"] == name):
        scores[name][sizes.index(network["images"])] += network["train_accuracy"], network["test_accuracy"]
    scores[name] *= 100 / 3  # the mean of three

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
for (name, score), colour, marker in zip(scores.items(), ("#0072B2", "#009E73", "#D55E00"), "os^", strict=True):
    left.plot(sizes, score[:, 0], color=colour, linestyle=":")
    left.plot(sizes, score[:, 1], color=colour, marker=marker, linewidth=2, label=name)
    right.plot(sizes, score[:, 0] - score[:, 1], color=colour, marker=marker, linewidth=2, label=name)
left.plot([], [], color="0.3", linestyle=":", label="of the digits learnt from")
left.set(title="right of other digits (%)", ylim=(0, 103))
right.set(title="gap to the digits learnt from", ylim=(0, None))
for ax in (left, right):
    ax.set(xscale="log", xticks=sizes, xticklabels=sizes, xlabel="digits learnt from")
    ax.minorticks_off()
    ax.legend(frameon=False)
    ax.grid(color="0.9")

# %%
for name, score in scores.items():
    print(f"{name:20}", *(f"{known:5.1f}/{others:4.1f}" for known, others in score), " (%) known/others")

# %%
# All learn a few hundred digits by heart. What that is worth for other digits differs: with a hundred, the dense
# network is right of one in four others, the CNN with global pooling of nine in ten. To the dense network each place of
# a digit is another thing, of which it must see examples; the CNN finds a stroke wherever it is. With more digits the
# gap closes, also because the dense network no longer learns them by heart: so many pictures at so many places do not
# fit into it in these steps.
#
# The dense network with a hundred digits, now:

train, test = split(digits(canvas=12, placement="random"))
rng = np.random.default_rng(0)
chosen = rng.permutation(len(train.x))[:100]
few = Images(train.x[chosen], train.labels[chosen])
model = nn.Sequential(nn.Flatten(), nn.Dense(144, 51, rng=rng), nn.ReLU(), nn.Dense(51, 10, rng=rng))
nn.fit(model, few, epochs=112, batch_size=32, optimizer=optim.Adam(optim.cosine(0.005)), progress=False)
print(
    f"{nn.evaluate(model, few)[1]:.1%} right of the hundred, {nn.evaluate(model, test)[1]:.1%} of {len(test.x)} others"
)
