r"""
A kernel slides
===============

A window as large as the kernel moves over the image. At each place the numbers under it are multiplied by those of
the kernel and added up; the sum is one number of the output:

.. math:: y_{i,j} = \sum_m \sum_n x_{i+m,\,j+n} \, w_{m,n}
"""

import matplotlib.pyplot as plt
import numpy as np

import cnnkit
from cnnkit import analysis

x = np.array([[1, 2, 0, 1, 1], [0, 1, 2, 2, 0], [2, 0, 1, 0, 1], [1, 1, 0, 2, 2], [0, 2, 1, 1, 0]], float)
kernel = analysis.sobel(1)

analysis.plot_slide(x, kernel, step=0)
plt.gcf().set_size_inches(8, 3.2)

# %%
# Five by five numbers and a kernel of three by three give three by three sums. The fifth, in the middle:

analysis.plot_slide(x, kernel, step=4)
plt.gcf().set_size_inches(8, 3.2)

# %%
# All of them, and what :func:`cnnkit.conv2d` says:

for step in analysis.slide(x, kernel):
    print(step.position, step.text)

print(cnnkit.conv2d(x[None], kernel[None, None])[0])

# %%
# To be exact it is a cross-correlation: the convolution of mathematics turns the kernel by half a turn first. All
# deep-learning libraries say convolution and leave the kernel as it is, for it is learnt anyway.
