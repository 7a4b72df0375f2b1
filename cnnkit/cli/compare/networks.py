"""The three networks that are compared, for images of any size, and what they cost."""

from collections.abc import Callable

import numpy as np

from cnnkit import nn
from cnnkit.arrays import Array

Shape = tuple[int, int, int]  # channels, height, width


def cnn_with_dense_head(shape: Shape, classes: int, rng: np.random.Generator) -> nn.Sequential:
    """Two convolutions and poolings; then a dense layer, which knows where on the image each feature was."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dense(32 * (height // 4) * (width // 4), classes, rng=rng),
    )


def cnn_with_global_pooling(shape: Shape, classes: int, rng: np.random.Generator) -> nn.Sequential:
    """Three convolutions at full size, then each feature's maximum: found anywhere, it counts the same.

    Nothing in between has a stride, for a step of two pixels would answer differently to odd and even shifts.
    """
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 5, padding=2, rng=rng),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.Conv2d(24, 28, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.GlobalMaxPool2d(),
        nn.Flatten(),
        nn.Dense(28, classes, rng=rng),
    )


def dense_network(shape: Shape, classes: int, rng: np.random.Generator) -> nn.Sequential:
    """One hidden layer, as wide as makes the whole as large as the CNN with the dense head."""
    pixels = int(np.prod(shape))
    budget = parameters(cnn_with_dense_head(shape, classes, np.random.default_rng(0)))
    hidden = max(round((budget - classes) / (pixels + 1 + classes)), 1)
    return nn.Sequential(nn.Flatten(), nn.Dense(pixels, hidden, rng=rng), nn.ReLU(), nn.Dense(hidden, classes, rng=rng))


NETWORKS: dict[str, Callable[[Shape, int, np.random.Generator], nn.Sequential]] = {
    "CNN, dense head": cnn_with_dense_head,
    "CNN, global pooling": cnn_with_global_pooling,
    "dense network": dense_network,
}


def parameters(model: nn.Sequential) -> int:
    """How many numbers are learned."""
    return sum(array.size for array in model.parameters().values())


def multiply_adds(model: nn.Sequential, image: Array) -> int:
    """Multiplications of a weight, each with its addition, for one image of shape (1, C, H, W)."""
    return model.summary(image.shape).multiply_adds
