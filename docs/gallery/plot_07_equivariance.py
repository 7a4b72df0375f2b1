r"""
A moved image, the moved answer
===============================

A function is equivariant if it does not matter whether one moves the image or the answer:

.. math:: f(\text{shift}(x)) = \text{shift}(f(x))

A convolution is, by construction: the same sums of the same numbers, elsewhere. All weights on this page are random.
"""

import matplotlib.pyplot as plt
import numpy as np

import cnnkit
from cnnkit import analysis
from cnnkit.datasets import photograph, shift

x = cnnkit.avg_pool2d(photograph(dtype="float64")[None, None], 4)  # 32 x 32 pixels
rng = np.random.default_rng(0)
weight, matrix = rng.normal(size=(4, 1, 3, 3)), rng.normal(size=(1024, 1024)) / 32

functions = {
    "conv": lambda x: cnnkit.conv2d(x, weight),
    "conv, padded": lambda x: cnnkit.conv2d(x, weight, padding="same"),
    "conv, stride 2": lambda x: cnnkit.conv2d(x, weight, stride=2),
    "dense": lambda x: cnnkit.dense(x.reshape(1, -1), matrix).reshape(x.shape),
}

figure, panels = plt.subplots(2, 3, figsize=(8, 5.6), layout="constrained")
for row, (name, image) in zip(panels, {"x": x, "shift(x)": shift(x, (5, 5))}.items(), strict=True):
    row[0].imshow(image[0, 0], cmap="gray")
    row[0].set_title(name)
    for ax, which in zip(row[1:], ("conv", "dense"), strict=True):
        limit = abs(functions[which](x)[0, 0]).max()
        ax.imshow(functions[which](image)[0, 0], cmap="PuOr_r", vmin=-limit, vmax=limit)
        ax.set_title(f"{which}({name})")
for ax in panels.flat:
    ax.set(xticks=[], yticks=[])

# %%
# How far off is each, as a part of its answer?

strides = {"conv": 1, "conv, padded": 1, "conv, stride 2": 2, "dense": 1}
analysis.plot_equivariance_error(functions, x, range(9), stride=strides)
plt.gcf().set_size_inches(8, 4.5)

# %%
# The convolution is exact. Padding breaks it at the border, where zeros stand for pixels that the moved image had. A
# stride of 2 keeps it for even shifts and breaks it for odd ones: the moved answer would have to lie between two
# outputs. The dense layer knows nothing of other places.

error = analysis.equivariance_error
print("padded, without a pixel of border:", error(functions["conv, padded"], x, 5, border=1))
