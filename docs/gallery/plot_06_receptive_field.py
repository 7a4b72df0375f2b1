r"""
How far deeper layers see
=========================

A number of a feature map sees the pixels under its window, and through deeper layers the pixels under the windows of
what it sees. With each layer the receptive field :math:`r` grows by the kernel less 1, times the jump: how many
pixels neighbours are apart, the product of the strides so far.

.. math:: r_n = r_{n-1} + (k_n - 1) \, j_{n-1}, \qquad j_n = j_{n-1} \, s_n
"""

import matplotlib.pyplot as plt

from cnnkit import analysis, nn

stack = [{"name": f"layer {number}", "kernel_size": 3} for number in (1, 2, 3)]
analysis.plot_receptive_field(stack, 7)
plt.gcf().set_size_inches(8, 3.8)

# %%
# Three layers of 3 x 3 see as far as one of 7 x 7, with 27 weights for each pair of channels in place of 49.

for row in analysis.receptive_field(stack, 7):
    print(f"{row.name:8} sees {row.size} x {row.size}, {row.coverage:6.1%} of the image")

# %%
# A real network, AlexNet (Krizhevsky et al. 2012), on 224 x 224 pixels. Edges first, then textures of some 50 pixels,
# at last the whole image:

alexnet = [
    {"name": "conv1 11x11 /4", "kernel_size": 11, "stride": 4, "padding": 2},
    {"name": "pool1 3x3 /2", "kernel_size": 3, "stride": 2},
    {"name": "conv2 5x5", "kernel_size": 5, "padding": 2},
    {"name": "pool2 3x3 /2", "kernel_size": 3, "stride": 2},
    {"name": "conv3 3x3", "kernel_size": 3, "padding": 1},
    {"name": "conv4 3x3", "kernel_size": 3, "padding": 1},
    {"name": "conv5 3x3", "kernel_size": 3, "padding": 1},
    {"name": "pool5 3x3 /2", "kernel_size": 3, "stride": 2},
    {"name": "dense", "kernel_size": 6},
]
analysis.plot_receptive_field(alexnet, 224)
plt.gcf().set_size_inches(8, 4)

# %%
# A model of :mod:`cnnkit.nn` says the same by itself; :func:`cnnkit.analysis.summary` has it in its last column.

model = nn.Sequential(
    *(nn.Conv2d(3, 16, 3, padding=1, rng=0), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3, padding=1, rng=1), nn.ReLU(), nn.GlobalAvgPool2d()),
    *(nn.Flatten(), nn.Dense(32, 10, rng=2)),
)
print(model.summary((1, 3, 32, 32)))
