"""The dense layer."""

from typing import Any

import numpy as np

from cnnkit.arrays import Array
from cnnkit.nn.arguments import integer
from cnnkit.nn.layer import Pullback
from cnnkit.nn.weighted import Rng, WeightedLayer
from cnnkit.ops.dense import dense, dense_backward


class Dense(WeightedLayer):
    """Dense (fully connected) layer: ``y = x @ weight.T + bias``.

    ``x`` is (..., in_features), ``y`` (..., out_features), `weight` (out_features, in_features), `bias`
    (out_features,).

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        Whether a bias is added.
    rng : numpy.random.Generator or int, optional
        Where the first weights come from (He initialisation): a generator or the seed of one.
    dtype : {"float32", "float64"}
        The dtype of parameters, inputs and outputs.

    Raises
    ------
    ValueError
        If a number is below 1.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> layer = nn.Dense(3, 2, rng=0, dtype="float64")
    >>> layer(np.zeros((5, 3))).shape
    (5, 2)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rng: Rng = None, dtype: Any = "float32"
    ) -> None:
        self.in_features = integer(in_features, "in_features")
        self.out_features = integer(out_features, "out_features")
        self._initialise((self.out_features, self.in_features), bias, rng, dtype)

    def __call__(self, x: Array) -> Array:
        return self._activated(x, None)

    def _activated(self, x: Array, activation: str | None) -> Array:
        """Infer, with an activation in the same pass."""
        return dense(x, self.weight, self.bias, activation=activation)

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return self._split(dense_backward(grad_y, x, self.weight, needs=self._needs(needs_x)))

        return self(x), pullback
