"""Normalisation layers: BatchNorm, LayerNorm, GroupNorm."""

from typing import Any

import numpy as np

from cnnkit import geometry
from cnnkit.arrays import Array
from cnnkit.nn.arguments import boolean, floating, integer
from cnnkit.nn.layer import Layer, Pullback
from cnnkit.ops import norm


class _Norm(Layer):
    """A layer with a `weight` (gamma) and a `bias` (beta), or with None for both."""

    weight: Array | None
    bias: Array | None
    dtype: str

    def _initialise(self, shape: tuple[int, ...], eps: Any, affine: bool, dtype: Any) -> None:
        kind = floating(dtype)
        norm.check_eps(eps)
        self.dtype, self.eps = kind.name, float(eps)
        self.weight = np.ones(shape, kind) if affine else None
        self.bias = np.zeros(shape, kind) if affine else None

    def parameters(self) -> dict[str, Array]:
        return {} if self.weight is None or self.bias is None else {"weight": self.weight, "bias": self.bias}

    def _needs(self, needs_x: bool) -> tuple[str, ...]:
        return (*(("x",) if needs_x else ()), *(() if self.weight is None else ("gamma", "beta")))

    def _split(self, grads: norm.NormGrads) -> tuple[Any, dict[str, Array]]:
        """What a backward function computed, as a pullback returns it."""
        own = {"weight": grads.gamma, "bias": grads.beta}
        return grads.x, {name: array for name, array in own.items() if array is not None}


class _BatchNorm(_Norm):
    """What is the same for any number of axes."""

    axes: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        dtype: Any = "float32",
    ) -> None:
        self.num_features = integer(num_features, "num_features")
        norm.check_momentum(momentum)
        self.momentum, self.affine = float(momentum), boolean(affine, "affine")
        self._initialise((self.num_features,), eps, self.affine, dtype)
        self.running_mean = np.zeros(self.num_features, self.dtype)
        self.running_var = np.ones(self.num_features, self.dtype)

    def state_dict(self) -> dict[str, Array]:
        return self.parameters() | {"running_mean": self.running_mean, "running_var": self.running_var}

    def __call__(self, x: Array) -> Array:
        return self._normalise(x, training=False)

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            fixed = self.weight, None, None  # the way back of training asks for no running statistics
            needs = self._needs(needs_x)
            return self._split(norm.batch_norm_backward(grad_y, x, *fixed, training=True, eps=self.eps, needs=needs))

        return self._normalise(x, training=True), pullback

    def _normalise(self, x: Array, training: bool) -> Array:
        if hasattr(x, "shape"):
            geometry.spatial_axes(x.shape, self.axes, type(self).__name__)
        given = self.weight, self.bias, self.running_mean, self.running_var
        return norm.batch_norm(x, *given, training=training, momentum=self.momentum, eps=self.eps)


BATCH_NORM = """Batch normalisation of each channel of ``x`` {shapes}: see `cnnkit.batch_norm`.

    ``model(x)`` normalises with the running statistics. ``model.forward(x)`` trains: it normalises with those of the
    batch, and **changes** `running_mean` and `running_var`, which a layer keeps between calls besides its parameters.
    They are in `state_dict` and so in files and checkpoints, not in `parameters`. A batch of a single value per
    channel cannot be trained with (mind the last batch of an epoch).

    The names are those of PyTorch's state dict, which has a count ``num_batches_tracked`` besides. Decaying the weights
    (`optim`) also pulls `weight`, at first 1, and `bias` towards 0.

    Parameters
    ----------
    num_features : int
        Channels of `x`.
    eps : float
        Added to the variance; above 0.
    momentum : float
        From 0 to 1: how much the running statistics take of each batch.
    affine : bool
        Whether there are a `weight` (gamma) and a `bias` (beta).
    dtype : {{"float32", "float64"}}

    Raises
    ------
    ValueError
        If a number is out of its range.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> layer = nn.{name}(3)
    >>> y, pullback = layer.forward(np.ones({example}, dtype="float32"))
    >>> layer.running_mean, list(layer.state_dict())
    (array([0.1, 0.1, 0.1], dtype=float32), ['weight', 'bias', 'running_mean', 'running_var'])
    """


class BatchNorm1d(_BatchNorm):
    __doc__ = BATCH_NORM.format(shapes="(N, C) or (N, C, L)", name="BatchNorm1d", example="(4, 3)")
    axes = (0, 1)


class BatchNorm2d(_BatchNorm):
    __doc__ = BATCH_NORM.format(shapes="(N, C, H, W)", name="BatchNorm2d", example="(4, 3, 2, 2)")
    axes = (2,)


class BatchNorm3d(_BatchNorm):
    __doc__ = BATCH_NORM.format(shapes="(N, C, D, H, W)", name="BatchNorm3d", example="(4, 3, 2, 2, 2)")
    axes = (3,)


class LayerNorm(_Norm):
    """Layer normalisation over the last axes: see `cnnkit.layer_norm`.

    Parameters
    ----------
    normalized_shape : int or tuple of ints
        The last axes of `x`.
    eps : float
        Added to the variance; above 0.
    elementwise_affine : bool
        Whether there are a `weight` (gamma) and a `bias` (beta), of shape `normalized_shape`.
    dtype : {"float32", "float64"}

    Raises
    ------
    ValueError
        If a number is out of its range.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> layer = nn.LayerNorm(2, dtype="float64")
    >>> layer(np.array([[1.0, 3.0]])).round(3)
    array([[-1.,  1.]])
    """

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, *, dtype: Any = "float32"
    ) -> None:
        shape = geometry.sizes(normalized_shape, "normalized_shape")
        self.normalized_shape = shape[0] if len(shape) == 1 else shape
        self.elementwise_affine = boolean(elementwise_affine, "elementwise_affine")
        self._initialise(shape, eps, self.elementwise_affine, dtype)

    def __call__(self, x: Array) -> Array:
        return norm.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            given = grad_y, x, self.normalized_shape, self.weight, self.eps
            return self._split(norm.layer_norm_backward(*given, needs=self._needs(needs_x)))

        return self(x), pullback


class GroupNorm(_Norm):
    """Group normalisation of neighbouring channels of each image: see `cnnkit.group_norm`.

    As many groups as channels are instance normalisation.

    Parameters
    ----------
    num_groups : int
        A divisor of `num_channels`.
    num_channels : int
        Channels of `x`.
    eps : float
        Added to the variance; above 0.
    affine : bool
        Whether there are a `weight` (gamma) and a `bias` (beta).
    dtype : {"float32", "float64"}

    Raises
    ------
    ValueError
        If a number is out of its range, or the groups are not of one size.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> layer = nn.GroupNorm(2, 4, dtype="float64")
    >>> layer(np.array([[1.0, 3.0, 10.0, 30.0]])).round(3)
    array([[-1.,  1., -1.,  1.]])
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, dtype: Any = "float32"
    ) -> None:
        self.num_groups, self.num_channels = integer(num_groups, "num_groups"), integer(num_channels, "num_channels")
        geometry.check_groups(self.num_channels, self.num_groups, "num_channels is {}", self.num_channels)
        self.affine = boolean(affine, "affine")
        self._initialise((self.num_channels,), eps, self.affine, dtype)

    def __call__(self, x: Array) -> Array:
        return norm.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            given = grad_y, x, self.num_groups, self.weight, self.eps
            return self._split(norm.group_norm_backward(*given, needs=self._needs(needs_x)))

        return self(x), pullback
