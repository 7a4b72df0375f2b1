"""
Neighbours agree, flattening forgets them
=========================================

In a photograph a pixel tells a good deal about its neighbours, and less about pixels farther off; in noise no pixel
knows of any other. So a small window holds most of what belongs together. A dense layer has a weight for every pair
of pixels, far or near.
"""

import matplotlib.pyplot as plt
import numpy as np

import cnnkit
from cnnkit import analysis
from cnnkit.datasets import photograph, shift

images = {"photograph": photograph(), "noise": np.random.default_rng(0).normal(size=(128, 128))}

figure, panels = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for ax, (name, image) in zip(panels, images.items(), strict=True):
    ax.imshow(image, cmap="gray")
    ax.set(title=name, xticks=[], yticks=[])

# %%
analysis.plot_neighbour_correlation(images, (1, 2, 4, 8, 16, 32))
plt.gcf().set_size_inches(7, 4)

# %%
# A dense layer sees a list. Here is a cross, and the same a pixel to the right:


def cross(size):
    image = np.zeros((1, 1, size, size))
    image[..., size // 2, :] = image[..., size // 2] = 1
    return image


still = cross(7)
moved = shift(still, (0, 1))
figure, panels = plt.subplots(4, 1, figsize=(7, 4.6), layout="constrained", height_ratios=(4, 4, 1, 1))
for ax, shown, title in (
    (panels[0], still[0, 0], "the cross"),
    (panels[1], moved[0, 0], "moved"),
    (panels[2], still.reshape(1, -1), "the cross as a list"),
    (panels[3], moved.reshape(1, -1), "moved, as a list"),
):
    ax.imshow(shown, cmap="gray_r", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize="medium")

# %%
# For the cross of 5 x 5 it is often printed that 17 of 25 entries differ. It is 9:

for size in (5, 7):
    differ = analysis.changed_positions(cross(size)[0, 0], (0, 1))
    print(f"{size} x {size}: {differ} of {size * size} entries differ")

# %%
# Random dense weights answer to the moved cross with something else. A convolution answers with the same, moved:

rng = np.random.default_rng(0)
matrix, kernel = rng.normal(size=(49, 49)), rng.normal(size=(1, 1, 3, 3))
dense = analysis.invariance_error(lambda x: x.reshape(1, 49) @ matrix, still, (0, 1))
conv = analysis.equivariance_error(lambda x: cnnkit.conv2d(x, kernel), still, (0, 1))
print(f"dense: the answer changes by {dense:.0%}; convolution: off by {conv:.0%} from its own answer, moved")
