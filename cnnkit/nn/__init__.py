"""Models: layers that return their own way back, `Sequential` and `Residual`, and training.

``y = model(x)`` infers. ``y, pullback = model.forward(x)`` also returns the way back, ``grad_x, grads =
pullback(grad_y)``, where `grads` has the keys of ``model.parameters()``. Nothing is remembered on a layer between
calls, but for the running statistics of `BatchNorm1d` and its like, which ``forward`` changes.
"""

from cnnkit.nn.activation import ELU, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from cnnkit.nn.adaptive_pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
)
from cnnkit.nn.callbacks import EarlyStopping, TrainingState
from cnnkit.nn.checkpoint import Checkpoint
from cnnkit.nn.conv import Conv1d, Conv2d, Conv3d
from cnnkit.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from cnnkit.nn.dense import Dense
from cnnkit.nn.evaluation import evaluate, predict
from cnnkit.nn.fusing import fuse
from cnnkit.nn.history import History
from cnnkit.nn.layer import Layer
from cnnkit.nn.lp_pool import LPPool1d, LPPool2d, LPPool3d
from cnnkit.nn.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm
from cnnkit.nn.plain import Dropout, Flatten
from cnnkit.nn.pool import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d
from cnnkit.nn.residual import Residual
from cnnkit.nn.saving import load
from cnnkit.nn.sequential import Sequential
from cnnkit.nn.training import fit

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Checkpoint",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Flatten",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "History",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LogSoftmax",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "TrainingState",
    "evaluate",
    "fit",
    "fuse",
    "load",
    "predict",
]
