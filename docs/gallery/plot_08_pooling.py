"""
Pooling forgets where, but only nearly
======================================

Equivariance moves the answer with the image. A classifier wants one that stays: invariance. How much does the answer
change when a digit on a canvas of 28 x 28 moves to the right? A convolution with 8 random filters, and then:
"""

import matplotlib.pyplot as plt

from cnnkit import analysis, nn
from cnnkit.datasets import digits

features = (nn.Conv2d(1, 8, 3, padding=1, rng=0), nn.ReLU())
functions = {
    "no pooling": nn.Sequential(*features),
    "max 2x2": nn.Sequential(*features, nn.MaxPool2d(2)),
    "average 2x2": nn.Sequential(*features, nn.AvgPool2d(2)),
    "max 4x4": nn.Sequential(*features, nn.MaxPool2d(4)),
    "average 4x4": nn.Sequential(*features, nn.AvgPool2d(4)),
    "global max": nn.Sequential(*features, nn.GlobalMaxPool2d()),
}
x = digits(canvas=28).x[:100]

ax = analysis.plot_invariance_error(functions, x, range(9))
ax.set_ylim(bottom=-0.04)
plt.gcf().set_size_inches(8, 4.8)

# %%
# A small pooling forgives a step of one pixel in part, and no more; larger windows forgive more. That is why networks
# pool again and again. Only global pooling does not see the move at all: its window is the whole image, and a maximum
# does not say where.
#
# Even that holds only while nothing leaves the image. Digits that fill their 8 x 8 pixels:

for pixels in (1, 2, 4):
    print(pixels, f"{analysis.invariance_error(functions['global max'], digits().x[:100], (0, pixels)):.0%}")
