"""Real layers by name, with their true shapes: what is raced, and what the benchmarks follow over the commits.

This file imports nothing of cnnkit, because `benchmarks/` reads it beside old versions of the package.
"""

from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Conv(NamedTuple):
    """A convolution with a bias; the number of spatial axes is the kernel's."""

    x: Shape
    weight: Shape
    stride: int = 1
    padding: Any = 0
    dilation: int = 1
    groups: int = 1

    @property
    def op(self) -> str:
        return f"conv{len(self.weight) - 2}d"

    @property
    def window(self) -> tuple[Any, ...]:
        """The arguments after the bias."""
        return self.stride, self.padding, self.dilation, self.groups


class ConvTranspose(NamedTuple):
    """A transposed convolution with a bias."""

    x: Shape
    weight: Shape
    stride: int = 1
    padding: int = 0
    output_padding: int = 0

    @property
    def op(self) -> str:
        return f"conv_transpose{len(self.weight) - 2}d"

    @property
    def window(self) -> tuple[int, int, int]:
        """The arguments after the bias."""
        return self.stride, self.padding, self.output_padding


class Pool(NamedTuple):
    """Maximum or average pooling of images."""

    kind: str  # "max" or "avg"
    x: Shape
    kernel_size: int
    stride: int
    padding: int = 0

    @property
    def op(self) -> str:
        return f"{self.kind}_pool2d"

    @property
    def window(self) -> tuple[int, int, int]:
        """The arguments after x."""
        return self.kernel_size, self.stride, self.padding


class AdaptivePool(NamedTuple):
    """Maximum or average pooling of images to a given size."""

    kind: str  # "max" or "avg"
    x: Shape
    output_size: int

    @property
    def op(self) -> str:
        return f"adaptive_{self.kind}_pool2d"


class LPPool(NamedTuple):
    """Lp pooling of images."""

    x: Shape
    norm_type: int
    kernel_size: int
    stride: int
    op: str = "lp_pool2d"

    @property
    def window(self) -> tuple[int, int, int]:
        """The arguments after x."""
        return self.norm_type, self.kernel_size, self.stride


class Unpool(NamedTuple):
    """Max unpooling to images, of windows beside each other."""

    x: Shape
    kernel_size: int
    op: str = "max_unpool2d"


class Dense(NamedTuple):
    """A dense layer with a bias."""

    x: Shape
    weight: Shape
    op: str = "dense"


class Elementwise(NamedTuple):
    """A function of x alone."""

    op: str
    x: Shape


class Norm(NamedTuple):
    """A normalisation with gamma and beta, in training; `groups` are a group norm's."""

    op: str
    x: Shape
    groups: int = 0

    @property
    def channels(self) -> Shape:
        """The shape of gamma and beta."""
        return self.x[-1:] if self.op == "layer_norm" else self.x[1:2]


class Network(NamedTuple):
    """A whole network of `networks.py`: forward is inference, backward both passes of a training step.

    Of that, answers are compared as far as the forward pass. A gradient depends on the side of zero to which rounding
    takes each of a million ReLUs; `tests/test_networks.py` compares those of small networks.
    """

    op: str
    x: Shape
    multiply_adds: int  # of its convolutions and dense layers, forward


Case = Conv | ConvTranspose | Pool | AdaptivePool | LPPool | Unpool | Dense | Elementwise | Norm | Network

CONV = {
    "lenet_5x5_6": Conv((64, 1, 32, 32), (6, 1, 5, 5)),
    "lenet_5x5_16": Conv((64, 6, 14, 14), (16, 6, 5, 5)),
    "alexnet_11x11_64": Conv((4, 3, 224, 224), (64, 3, 11, 11), 4, 2),
    "alexnet_5x5_192": Conv((4, 64, 27, 27), (192, 64, 5, 5), 1, 2),
    "vgg_3x3_64": Conv((1, 64, 224, 224), (64, 64, 3, 3), 1, 1),
    "vgg_3x3_512": Conv((2, 512, 14, 14), (512, 512, 3, 3), 1, 1),
    "resnet_7x7_stem": Conv((4, 3, 224, 224), (64, 3, 7, 7), 2, 3),
    "resnet_3x3_64": Conv((4, 64, 56, 56), (64, 64, 3, 3), 1, 1),
    "resnet_3x3_128_stride2": Conv((4, 64, 56, 56), (128, 64, 3, 3), 2, 1),
    "resnet_3x3_256": Conv((4, 256, 14, 14), (256, 256, 3, 3), 1, 1),
    "resnet_3x3_512": Conv((4, 512, 7, 7), (512, 512, 3, 3), 1, 1),
    "resnet_1x1_64": Conv((4, 256, 56, 56), (64, 256, 1, 1)),
    "resnet_1x1_256": Conv((4, 64, 56, 56), (256, 64, 1, 1)),
    "resnet_1x1_512_stride2": Conv((4, 256, 56, 56), (512, 256, 1, 1), 2),
    "mobilenet_expand_144": Conv((4, 24, 56, 56), (144, 24, 1, 1)),
    "mobilenet_depthwise_144": Conv((4, 144, 56, 56), (144, 1, 3, 3), 1, 1, 1, 144),
    "mobilenet_depthwise_144_stride2": Conv((4, 144, 56, 56), (144, 1, 3, 3), 2, 1, 1, 144),
    "mobilenet_project_24": Conv((4, 144, 56, 56), (24, 144, 1, 1)),
    "inception_1x7_192": Conv((4, 192, 17, 17), (192, 192, 1, 7), 1, (0, 3)),
    "resnext_3x3_groups32": Conv((4, 128, 56, 56), (128, 4, 3, 3), 1, 1, 1, 32),
    "unet_3x3_64": Conv((1, 128, 128, 128), (64, 128, 3, 3), 1, 1),
    "unet_3x3_256": Conv((1, 512, 32, 32), (256, 512, 3, 3), 1, 1),
    "audio_1d_3_dilated": Conv((4, 64, 8000), (64, 64, 3), 1, 4, 4),
    "volume_3d_3x3x3_256": Conv((1, 256, 4, 14, 14), (256, 256, 3, 3, 3), 1, 1),
    "digits_5x5_16": Conv((32, 1, 16, 16), (16, 1, 5, 5), 1, 2),
    "digits_3x3_32": Conv((32, 16, 8, 8), (32, 16, 3, 3), 1, 1),
}
CONV_TRANSPOSE = {
    "unet_transposed_2x2_64": ConvTranspose((4, 128, 28, 28), (128, 64, 2, 2), 2),
    "dcgan_transposed_4x4_128": ConvTranspose((16, 256, 8, 8), (256, 128, 4, 4), 2, 1),
    "decoder_transposed_3x3_64": ConvTranspose((4, 128, 28, 28), (128, 64, 3, 3), 2, 1, 1),
}
POOL: dict[str, Pool | AdaptivePool | LPPool | Unpool] = {
    "resnet_max_pool_3x3": Pool("max", (4, 64, 112, 112), 3, 2, 1),
    "vgg_max_pool_2x2": Pool("max", (2, 128, 112, 112), 2, 2),
    "inception_avg_pool_3x3": Pool("avg", (4, 192, 35, 35), 3, 1, 1),
    "resnet_avg_pool_7x7": Pool("avg", (8, 2048, 7, 7), 7, 7),
    "digits_max_pool_2x2": Pool("max", (32, 16, 16, 16), 2, 2),
    "vgg_adaptive_avg_pool_7": AdaptivePool("avg", (8, 512, 13, 13), 7),
    "spp_adaptive_max_pool_7": AdaptivePool("max", (8, 512, 13, 13), 7),
    "global_avg_pool": AdaptivePool("avg", (8, 512, 13, 13), 1),
    "lp_pool_3x3": LPPool((4, 64, 112, 112), 2, 3, 2),
    "segnet_unpool_2x2": Unpool((4, 64, 56, 56), 2),
}
DENSE = {
    "lenet_dense_120": Dense((64, 400), (120, 400)),
    "vgg_dense_4096": Dense((16, 4096), (4096, 4096)),
    "resnet_dense_1000": Dense((64, 2048), (1000, 2048)),
    "digits_dense_10": Dense((32, 512), (10, 512)),
}
ELEMENTWISE = {
    "resnet_relu": Elementwise("relu", (4, 64, 112, 112)),
    "resnet_gelu": Elementwise("gelu", (4, 64, 112, 112)),
    "resnet_silu": Elementwise("silu", (4, 64, 112, 112)),
    "resnet_tanh": Elementwise("tanh", (4, 64, 112, 112)),
    "imagenet_softmax": Elementwise("softmax", (256, 1000)),
}
NORM = {
    "resnet_batch_norm_64": Norm("batch_norm", (4, 64, 112, 112)),
    "resnet_batch_norm_256": Norm("batch_norm", (32, 256, 14, 14)),
    "transformer_layer_norm_768": Norm("layer_norm", (256, 768)),
    "detector_group_norm_256": Norm("group_norm", (4, 256, 28, 28), 32),
}
NETWORK = {
    "resnet18_224": Network("resnet18", (4, 3, 224, 224), 4 * 1_814_073_344),
    "mobilenet_v2_224": Network("mobilenet_v2", (4, 3, 224, 224), 4 * 300_774_272),
}
CASES: dict[str, Case] = {**CONV, **CONV_TRANSPOSE, **POOL, **DENSE, **ELEMENTWISE, **NORM, **NETWORK}


def arrays(case: Case, dtype: str = "float32") -> dict[str, np.ndarray]:
    """The layer's x and what else it has: the same normal numbers in every run, indices in their windows."""
    rng = np.random.default_rng(0)
    made = {"x": rng.standard_normal(case.x).astype(dtype)}
    if isinstance(case, Norm):
        made |= {name: rng.standard_normal(case.channels).astype(dtype) for name in ("gamma", "beta")}
    if isinstance(case, Conv | ConvTranspose | Dense):
        made["weight"] = rng.standard_normal(case.weight).astype(dtype)
        made["bias"] = rng.standard_normal(case.weight[isinstance(case, ConvTranspose)]).astype(dtype)
    if isinstance(case, Unpool):
        (height, width), k = case.x[-2:], case.kernel_size
        down = rng.integers(0, k, case.x) + k * np.arange(height)[:, None]
        right = rng.integers(0, k, case.x) + k * np.arange(width)
        made["indices"] = down * (width * k) + right
    return made


def flops(case: Case, y: Shape, direction: str) -> int:
    """Floating-point operations; a multiplication and its addition are two, and the way back takes two passes."""
    if isinstance(case, Network):
        return 2 * case.multiply_adds * (3 if direction == "backward" else 1)
    if isinstance(case, Conv | Dense):
        forward = 2 * int(np.prod(y)) * int(np.prod(case.weight[1:]))
    elif isinstance(case, ConvTranspose):
        forward = 2 * int(np.prod(case.x)) * int(np.prod(case.weight[1:]))
    elif isinstance(case, Norm):
        forward = 8 * int(np.prod(y))  # about: three for the statistics, the rest to normalise
    elif isinstance(case, AdaptivePool | Unpool):
        forward = int(np.prod(case.x))
    else:
        forward = int(np.prod(y)) * (1 if isinstance(case, Elementwise) else case.kernel_size**2)
    passes = 2 if direction == "backward" and isinstance(case, Conv | ConvTranspose | Dense | Norm) else 1
    return forward * passes
