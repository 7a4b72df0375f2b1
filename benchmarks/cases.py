"""The named layers, read from the source file beside this folder: an installed old cnnkit may not have it."""

import importlib.util
import sys
from pathlib import Path

_FILE = Path(__file__).parents[1] / "cnnkit" / "cli" / "bench" / "cases.py"
_spec = importlib.util.spec_from_file_location("benchmarks_cases", _FILE)
_module = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

CASES, CONV, CONV_TRANSPOSE, POOL, DENSE, ELEMENTWISE, NORM = (
    getattr(_module, name) for name in ("CASES", "CONV", "CONV_TRANSPOSE", "POOL", "DENSE", "ELEMENTWISE", "NORM")
)
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
