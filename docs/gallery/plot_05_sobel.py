"""
Nine numbers find edges
=======================

Sobel's kernels are the slope in one direction, smoothed in the other. Nobody trained them; the first layer of a
trained network learns filters like them.
"""

import matplotlib.pyplot as plt
import numpy as np

import cnnkit
from cnnkit import analysis
from cnnkit.datasets import photograph

print(analysis.sobel(1))
photo = photograph()

figure, panels = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
panels[0].imshow(photo, cmap="gray")
panels[0].set(title="photograph", xticks=[], yticks=[])
analysis.plot_sobel(photo, 1, ax=panels[1])
analysis.plot_sobel(photo, 0, ax=panels[2])

# %%
# On a checkerboard of single pixels they find nothing at all. That is no error: Sobel compares the pixel to the left
# with that to the right, and these are always equal there. Of larger fields it finds the edges.

board = np.indices((8, 8)).sum(0) % 2.0
large = np.kron(board[:4, :4], np.ones((2, 2)))
kernel = analysis.sobel(1)[None, None]
print("largest answer:", abs(cnnkit.conv2d(board[None], kernel)).max(), abs(cnnkit.conv2d(large[None], kernel)).max())

figure, panels = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained")
for left, right, image, name in ((*panels[:2], board, "1 x 1"), (*panels[2:], large, "2 x 2")):
    left.imshow(image, cmap="gray")
    left.set(title=f"fields of {name}", xticks=[], yticks=[])
    analysis.plot_sobel(image, 1, ax=right)
    right.set_title("Sobel along axis 1")
