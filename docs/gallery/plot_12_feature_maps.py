"""
What a trained network sees
===========================

Layer by layer, what a small CNN makes of a digit: strokes in the first layer, corners and ends of strokes in the
next, and at last one number for each class.
"""

import matplotlib.pyplot as plt
import numpy as np

from cnnkit import analysis, nn, optim
from cnnkit.datasets import digits, split

train, test = split(digits(canvas=16))
rng = np.random.default_rng(0)
model = nn.Sequential(
    *(nn.Conv2d(1, 8, 5, padding=2, rng=rng), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(8, 16, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Flatten(), nn.Dense(256, 10, rng=rng)),
)
nn.fit(model, train, epochs=6, batch_size=32, optimizer=optim.Adam(optim.cosine(0.005)), progress=False)
print(f"{nn.evaluate(model, test)[1]:.1%} of the test digits are right")

x = test.x[test.labels == 3][:1]
figure, ax = plt.subplots(figsize=(2.4, 2.4), layout="constrained")
ax.imshow(x[0, 0], cmap="gray")
ax.set(title="the image", xticks=[], yticks=[])

# %%
# After the first convolution and its ReLU; after the second:

figure, panels = plt.subplots(2, 1, figsize=(8, 4), layout="constrained", height_ratios=(1, 2))
analysis.plot_feature_maps(model, x, "1", columns=8, ax=panels[0])
analysis.plot_feature_maps(model, x, "4", columns=8, ax=panels[1])

# %%
# The ten numbers at the end, as probabilities:

figure, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
logits = analysis.feature_maps(model, x)[-1].output[0]
ax.bar(range(10), np.exp(logits - np.logaddexp.reduce(logits)), color="#0072B2")
ax.set(xticks=range(10), ylim=(0, 1), ylabel="probability", xlabel="digit")
ax.spines[["top", "right"]].set_visible(False)

# %%
# What each layer costs, and how far it sees:

print(model.summary((1, 1, 16, 16)))
