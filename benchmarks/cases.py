"""The named layers and networks, read from the race's source: an installed old cnnkit may not have them."""

import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "cnnkit" / "cli" / "bench"


def _read(name):
    """A file of the race as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", _FOLDER / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_module, networks = _read("cases"), _read("networks")
KINDS = ("CASES", "CONV", "CONV_TRANSPOSE", "POOL", "DENSE", "ELEMENTWISE", "NORM", "NETWORK")
CASES, CONV, CONV_TRANSPOSE, POOL, DENSE, ELEMENTWISE, NORM, NETWORK = (getattr(_module, name) for name in KINDS)
arrays = _module.arrays

BACKENDS = ["numba", "numpy", "cuda", "cupy"]  # on every machine; asv's -b chooses those that it has
FOLLOWED = [  # of CONV, those that asv runs
    "lenet_5x5_16",
    "alexnet_5x5_192",
    "vgg_3x3_512",
    "resnet_7x7_stem",
    "resnet_3x3_64",
    "resnet_3x3_256",
    "resnet_1x1_256",
    "resnet_1x1_512_stride2",
    "mobilenet_depthwise_144",
    "mobilenet_depthwise_144_stride2",
    "inception_1x7_192",
    "resnext_3x3_groups32",
    "unet_3x3_256",
    "audio_1d_3_dilated",
    "volume_3d_3x3x3_256",
]
