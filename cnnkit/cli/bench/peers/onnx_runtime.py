"""ONNX Runtime: a model of one node, its weights constants of the model; forward only."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkit.cli.bench.cases import AdaptivePool, Conv, ConvTranspose, Dense, Elementwise, LPPool, Norm, Pool, Unpool

ort: Any = importlib.import_module("onnxruntime")
onnx: Any = importlib.import_module("onnx")
helper: Any = importlib.import_module("onnx.helper")

NAME = "ONNX Runtime"
Arrays = dict[str, np.ndarray]
Work = Callable[[], tuple[Any, ...]] | None
_options = ort.SessionOptions()


def use_threads(n: int) -> None:
    _options.intra_op_num_threads = n
    _options.inter_op_num_threads = 1
    _options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs it would slow the others


def conv(case: Conv, arrays: Arrays, direction: str) -> Work:
    axes = len(case.weight) - 2
    pads = [case.padding] * axes if isinstance(case.padding, int) else list(case.padding)
    window: dict[str, Any] = {"strides": [case.stride] * axes, "pads": pads * 2, "dilations": [case.dilation] * axes}
    return _work("Conv", arrays, direction, ("weight", "bias"), group=case.groups, **window)


def convtranspose(case: ConvTranspose, arrays: Arrays, direction: str) -> Work:
    strides, pads, output_padding = ([number] * (len(case.weight) - 2) for number in case.window)
    window = {"strides": strides, "pads": pads * 2, "output_padding": output_padding}
    return _work("ConvTranspose", arrays, direction, ("weight", "bias"), **window)


def dense(case: Dense, arrays: Arrays, direction: str) -> Work:
    return _work("Gemm", arrays, direction, ("weight", "bias"), transB=1)


def pool(case: Pool, arrays: Arrays, direction: str) -> Work:
    window: dict[str, Any] = {
        "kernel_shape": [case.kernel_size] * 2,
        "strides": [case.stride] * 2,
        "pads": [case.padding] * 4,
    }
    if case.kind == "avg":
        return _work("AveragePool", arrays, direction, count_include_pad=1, **window)
    return _work("MaxPool", arrays, direction, **window)


def adaptivepool(case: AdaptivePool, arrays: Arrays, direction: str) -> None:
    """Nothing: it has none."""


def lppool(case: LPPool, arrays: Arrays, direction: str) -> None:
    """Nothing: not raced."""


def unpool(case: Unpool, arrays: Arrays, direction: str) -> None:
    """Nothing: not raced."""


def elementwise(case: Elementwise, arrays: Arrays, direction: str) -> Work:
    node = {"relu": "Relu", "softmax": "Softmax", "tanh": "Tanh"}.get(case.op)
    return _work(node, arrays, direction) if node else None


def norm(case: Norm, arrays: Arrays, direction: str) -> Work:
    """Not raced: it is for inference, where this is part of the layer before."""
    return None


def numpy_arrays(results: tuple[Any, ...]) -> list[np.ndarray]:
    return list(results)


def _work(node: str, arrays: Arrays, direction: str, constants: tuple[str, ...] = (), **attributes: Any) -> Work:
    if direction == "backward":
        return None
    session = ort.InferenceSession(_model(node, arrays, constants, attributes), _options, ["CPUExecutionProvider"])
    given = {"x": arrays["x"]}
    return lambda: tuple(session.run(None, given))


def _model(node: str, arrays: Arrays, constants: tuple[str, ...], attributes: dict[str, Any]) -> bytes:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, arrays["x"].shape)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    weights = [importlib.import_module("onnx.numpy_helper").from_array(arrays[name], name) for name in constants]
    graph = helper.make_graph(
        [helper.make_node(node, ["x", *constants], ["y"], **attributes)], "layer", [x], [y], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()
