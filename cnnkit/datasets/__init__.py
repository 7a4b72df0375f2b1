"""Labelled images to train on: the built-in digits and photograph, and readers for MNIST and CIFAR-10 files.

Everything here returns NumPy arrays in the layout that the rest of cnnkit takes, ``(N, C, H, W)``,
and needs NumPy alone. Nothing is downloaded.
"""

from cnnkit.datasets.cifar import read_cifar10
from cnnkit.datasets.folder import load_folder
from cnnkit.datasets.hopper import photograph
from cnnkit.datasets.idx import read_idx
from cnnkit.datasets.images import Images, shift, split
from cnnkit.datasets.uci import digits

__all__ = ["Images", "digits", "load_folder", "photograph", "read_cifar10", "read_idx", "shift", "split"]
