"""
A sparse dense layer with tied weights
======================================

Write the image as a list, and a convolution is a matrix like that of a dense layer, in which most weights are zero
and the others are the same few. Here are 3 x 3 weights on 6 x 6 pixels:
"""

import matplotlib.pyplot as plt
import numpy as np

import cnnkit
from cnnkit import analysis

weight = np.array([[-4.0, -3, -2], [-1, 0.5, 1], [2, 3, 4]]).reshape(1, 1, 3, 3)

analysis.plot_conv_matrix(weight, (1, 6, 6))
plt.gcf().set_size_inches(8, 4)

# %%
# Each row is an output. Locality makes the zeros, sharing the diagonals.

matrix = analysis.conv_matrix(weight, (1, 6, 6))
print(matrix.shape, "entries in a row:", set(np.diff(matrix.indptr).tolist()), "different ones:", len(set(matrix.data)))

# %%
# With padding the rows of the border have fewer: the others would meet zeros. A stride takes rows out.

figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
analysis.plot_conv_matrix(weight, (1, 4, 4), padding=1, ax=panels[0])
analysis.plot_conv_matrix(weight, (1, 6, 6), stride=2, padding=1, ax=panels[1])

# %%
# The matrix times the image is the convolution, and its transpose is the way back to the input:

x = np.random.default_rng(0).normal(size=(1, 6, 6))
y = cnnkit.conv2d(x, weight)
back = cnnkit.conv2d_backward(y, x, weight, needs=("x",)).x
print(f"{abs(matrix @ x.ravel() - y.ravel()).max():.0e}", f"{abs(matrix.T @ y.ravel() - back.ravel()).max():.0e}")

# %%
# Of an image of 224 x 224 nobody writes it down. A dense layer that does the same would have to learn all of its
# entries:

large = analysis.parameter_savings((1, 224, 224), None, 1, 3, bias=False)
print(f"{large.dense:,} entries, {large.connections:,} of them not zero, {large.conv} different")
