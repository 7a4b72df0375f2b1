r"""
How many numbers a layer learns
===============================

A dense layer gives every output a weight for every number of the image, and a bias. A convolution has one small
filter for each output channel, whatever the size of the image:

.. math:: \text{dense: } n_\text{in} \, n_\text{out} + n_\text{out}
   \qquad \text{convolution: } k^2 \, C_\text{in} \, C_\text{out} + C_\text{out}
"""

import matplotlib.pyplot as plt

from cnnkit import analysis

dense = {
    "dense, 28 x 28 to 100": analysis.dense_parameters(28 * 28, 100),
    "dense, 32 x 32 x 3 to 1000": analysis.dense_parameters(32 * 32 * 3, 1000),
    "dense, 224 x 224 x 3 to 1000": analysis.dense_parameters(224 * 224 * 3, 1000),
    "dense, 1920 x 1080 x 3 to 1000": analysis.dense_parameters(1920 * 1080 * 3, 1000),
}
conv = {
    "3 x 3, 1 to 8 channels": analysis.conv_parameters(1, 8, 3),
    "5 x 5, 3 to 64 channels": analysis.conv_parameters(3, 64, 5),
    "3 x 3, 512 to 512 channels": analysis.conv_parameters(512, 512, 3),
}
analysis.plot_parameters(dense | conv, highlight=list(conv))
plt.gcf().set_size_inches(8, 4)

# %%
# The largest is often printed as 6,221,801,000. That is wrong: 1920 x 1080 x 3 are 6,220,800 inputs, times 1,000
# outputs, plus 1,000 biases.

print(f"{dense['dense, 1920 x 1080 x 3 to 1000']:,}")

# %%
# 128 dense neurons on a grey image against 16 filters of 3 x 3, without biases:

for size in (28, 64, 224):
    saved = analysis.parameter_savings((1, size, size), 128, 16, 3, bias=False)
    print(f"{size:3} x {size:3}: {saved.dense:>9,} against {saved.conv}, {saved.ratio:,.0f} times as many")

# %%
# As a rule of thumb a parameter asks for 5 to 10 examples. No data set has as many images as the large layers ask
# for:

analysis.plot_training_examples({f"{n:,}\nparameters": n for n in (10_000, 800_000, 3_000_000, 150_000_000)})
plt.gcf().set_size_inches(8, 3.6)

# %%
# Fewer parameters are no aim in themselves: on images of 8 x 8 pixels a dense layer of 650 numbers is fine.
