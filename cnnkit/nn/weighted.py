"""What layers with a weight and a bias share."""

import math
from typing import Any

import numpy as np

from cnnkit.arrays import Array
from cnnkit.nn.arguments import boolean, floating
from cnnkit.nn.layer import Layer

Rng = np.random.Generator | int | None


class WeightedLayer(Layer):
    """A layer with a `weight`, mostly (out, ...), and, unless it is None, a `bias` (out,)."""

    weight: Array
    bias: Array | None
    dtype: str

    def _initialise(
        self,
        shape: tuple[int, ...],
        bias: bool,
        rng: Rng,
        dtype: Any,
        *,
        fan_in: float | None = None,
        features: int | None = None,
    ) -> None:
        """He initialisation: weights from a normal distribution of variance 2 / fan_in, biases zero.

        `fan_in` is how many products make an output, `features` how many biases there are: by default those of a
        weight (features, ...). The numbers are drawn in float64, so that models of either dtype start from the same
        weights.
        """
        kind = floating(dtype)
        self.dtype = kind.name
        deviation = math.sqrt(2 / (fan_in or math.prod(shape[1:])))  # He et al. 2015, arXiv 1502.01852, equation 10
        self.weight = np.random.default_rng(rng).normal(0, deviation, shape).astype(kind)
        self.bias = np.zeros(features or shape[0], kind) if boolean(bias, "bias") else None

    def parameters(self) -> dict[str, Array]:
        return {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}

    def config(self) -> dict[str, Any]:
        return super().config() | {"bias": self.bias is not None}

    def _needs(self, needs_x: bool) -> tuple[str, ...]:
        """Which gradients the backward function is to compute."""
        return (*(("x",) if needs_x else ()), *self.parameters())

    def _split(self, computed: Any) -> tuple[Array, dict[str, Array]]:
        """What a backward function computed, as a pullback returns it."""
        return computed.x, {name: getattr(computed, name) for name in self.parameters()}
