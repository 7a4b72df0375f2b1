"""The networks that are compared, for images of any size, and what they cost."""

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
    return _one_hidden_layer(shape, classes, cnn_with_dense_head, rng)


def two_convolutions(shape: Shape, classes: int, rng: np.random.Generator) -> nn.Sequential:
    """Conv, ReLU, conv, ReLU, flatten, dense: the smallest network that deserves the name."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, rng=rng),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, rng=rng),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dense(8 * (height - 4) * (width - 4), classes, rng=rng),
    )


def one_hidden_layer(shape: Shape, classes: int, rng: np.random.Generator) -> nn.Sequential:
    """A dense network as large as the two convolutions."""
    return _one_hidden_layer(shape, classes, two_convolutions, rng)


def one_dense_layer(shape: Shape, classes: int, rng: np.random.Generator) -> nn.Sequential:
    """A weighted sum of the pixels for each class, and no more."""
    return nn.Sequential(nn.Flatten(), nn.Dense(int(np.prod(shape)), classes, rng=rng))


Network = Callable[[Shape, int, np.random.Generator], nn.Sequential]


def _one_hidden_layer(shape: Shape, classes: int, like: Network, rng: np.random.Generator) -> nn.Sequential:
    pixels = int(np.prod(shape))
    budget = parameters(like(shape, classes, np.random.default_rng(0)))
    hidden = max(round((budget - classes) / (pixels + 1 + classes)), 1)
    return nn.Sequential(nn.Flatten(), nn.Dense(pixels, hidden, rng=rng), nn.ReLU(), nn.Dense(hidden, classes, rng=rng))


OF_LIKE_SIZE: dict[str, Network] = {
    "CNN, dense head": cnn_with_dense_head,
    "CNN, global pooling": cnn_with_global_pooling,
    "dense network": dense_network,
}
FROM_SCRATCH: dict[str, Network] = {
    "two convolutions": two_convolutions,
    "one hidden layer": one_hidden_layer,
    "one dense layer": one_dense_layer,
}
NETWORKS = OF_LIKE_SIZE | FROM_SCRATCH


def parameters(model: nn.Sequential) -> int:
    """How many numbers are learned."""
    return sum(array.size for array in model.parameters().values())


def multiply_adds(model: nn.Sequential, image: Array) -> int:
    """Multiplications of a weight, each with its addition, for one image of shape (1, C, H, W)."""
    return model.summary(image.shape).multiply_adds
