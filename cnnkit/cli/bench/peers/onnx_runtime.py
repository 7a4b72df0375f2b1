"""ONNX Runtime: a model of one node, or a whole network, its weights constants of the model; forward only."""

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np

from cnnkit.cli.bench import cases, networks

ort: Any = importlib.import_module("onnxruntime")
onnx: Any = importlib.import_module("onnx")
helper: Any = importlib.import_module("onnx.helper")

NAME = "ONNX Runtime"
Arrays = dict[str, np.ndarray]
Work = Callable[[], tuple[Any, ...]] | None
Shapes = Mapping[str, tuple[int, ...]]
_options = ort.SessionOptions()


def use_threads(n: int) -> None:
    _options.intra_op_num_threads = n
    _options.inter_op_num_threads = 1
    _options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs it would slow the others


def conv(case: cases.Conv, arrays: Arrays, direction: str) -> Work:
    axes = len(case.weight) - 2
    pads = [case.padding] * axes if isinstance(case.padding, int) else list(case.padding)
    window: dict[str, Any] = {"strides": [case.stride] * axes, "pads": pads * 2, "dilations": [case.dilation] * axes}
    return _work("Conv", arrays, direction, ("weight", "bias"), group=case.groups, **window)


def convtranspose(case: cases.ConvTranspose, arrays: Arrays, direction: str) -> Work:
    strides, pads, output_padding = ([number] * (len(case.weight) - 2) for number in case.window)
    window = {"strides": strides, "pads": pads * 2, "output_padding": output_padding}
    return _work("ConvTranspose", arrays, direction, ("weight", "bias"), **window)


def dense(case: cases.Dense, arrays: Arrays, direction: str) -> Work:
    return _work("Gemm", arrays, direction, ("weight", "bias"), transB=1)


def pool(case: cases.Pool, arrays: Arrays, direction: str) -> Work:
    window: dict[str, Any] = {
        "kernel_shape": [case.kernel_size] * 2,
        "strides": [case.stride] * 2,
        "pads": [case.padding] * 4,
    }
    if case.kind == "avg":
        return _work("AveragePool", arrays, direction, count_include_pad=1, **window)
    return _work("MaxPool", arrays, direction, **window)


def adaptivepool(case: cases.AdaptivePool, arrays: Arrays, direction: str) -> None:
    """Nothing: it has none."""


def lppool(case: cases.LPPool, arrays: Arrays, direction: str) -> None:
    """Nothing: not raced."""


def unpool(case: cases.Unpool, arrays: Arrays, direction: str) -> None:
    """Nothing: not raced."""


def elementwise(case: cases.Elementwise, arrays: Arrays, direction: str) -> Work:
    node = {"relu": "Relu", "softmax": "Softmax", "tanh": "Tanh"}.get(case.op)
    return _work(node, arrays, direction) if node else None


def norm(case: cases.Norm, arrays: Arrays, direction: str) -> Work:
    """Not raced: it is for inference, where this is part of the layer before."""
    return None


def network(case: cases.Network, arrays: Arrays, direction: str) -> Work:
    if direction == "backward":
        return None
    graph = _Graph()
    y = getattr(networks, case.op)(PARTS)(graph, "x", "")
    return _session(_model(graph.nodes, graph.constants, arrays["x"].shape, y), arrays)


class _Graph:
    """Nodes and constants under way."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: Arrays = {}

    def add(
        self,
        node: str,
        x: list[str],
        constants: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
        **attributes: Any,
    ) -> str:
        """A node of some inputs and then of constants, which have names and shapes; the name of what it makes."""
        self.constants |= {name: networks.numbers(name, shape) for name, shape in constants.items()}
        self.nodes.append(helper.make_node(node, [*x, *constants], [f"y{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]


Part = Callable[[_Graph, str, str], str]  # adds itself to a graph behind an input, its constants called by its name


def _sequential(*parts: Part) -> Part:
    def add(graph: _Graph, x: str, name: str) -> str:
        for i, part in enumerate(parts):
            x = part(graph, x, f"{name}{i}.")
        return x

    return add


def _residual(body: Part, shortcut: Part = lambda graph, x, name: x) -> Part:
    def add(graph: _Graph, x: str, name: str) -> str:
        return graph.add("Add", [body(graph, x, f"{name}body."), shortcut(graph, x, f"{name}shortcut.")])

    return add


def _conv(ins: int, outs: int, kernel: int, stride: int, padding: int, dilation: int, groups: int, bias: bool) -> Part:
    window = {"strides": [stride] * 2, "pads": [padding] * 4, "dilations": [dilation] * 2, "group": groups}
    return _part("Conv", {"weight": (outs, ins // groups, kernel, kernel)}, **window)


def _batch_norm(channels: int) -> Part:
    names = ("weight", "bias", "running_mean", "running_var")
    return _part("BatchNormalization", dict.fromkeys(names, (channels,)))


def _max_pool(kernel: int, stride: int, padding: int) -> Part:
    return _part("MaxPool", {}, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4)


def _dense(ins: int, outs: int) -> Part:
    return _part("Gemm", {"weight": (outs, ins), "bias": (outs,)}, transB=1)


def _part(node: str, constants: Shapes, **attributes: Any) -> Part:
    def add(graph: _Graph, x: str, name: str) -> str:
        return graph.add(node, [x], {name + each: shape for each, shape in constants.items()}, **attributes)

    return add


PARTS = SimpleNamespace(  # the layers of `cnnkit.nn` as parts of a graph
    Sequential=_sequential,
    Residual=_residual,
    Conv2d=_conv,
    BatchNorm2d=_batch_norm,
    ReLU=lambda: _part("Relu", {}),
    MaxPool2d=_max_pool,
    AdaptiveAvgPool2d=lambda size: _part("GlobalAveragePool", {}),
    Flatten=lambda: _part("Flatten", {}),
    Dense=_dense,
)


def numpy_arrays(results: tuple[Any, ...]) -> list[np.ndarray]:
    return list(results)


def _work(node: str, arrays: Arrays, direction: str, constants: tuple[str, ...] = (), **attributes: Any) -> Work:
    if direction == "backward":
        return None
    only = helper.make_node(node, ["x", *constants], ["y"], **attributes)
    return _session(_model([only], {name: arrays[name] for name in constants}, arrays["x"].shape, "y"), arrays)


def _session(model: bytes, arrays: Arrays) -> Work:
    session = ort.InferenceSession(model, _options, ["CPUExecutionProvider"])
    given = {"x": arrays["x"]}
    return lambda: tuple(session.run(None, given))


def _model(nodes: list[Any], constants: Arrays, shape: tuple[int, ...], result: str) -> bytes:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None)
    weights = [
        importlib.import_module("onnx.numpy_helper").from_array(array, name) for name, array in constants.items()
    ]
    graph = helper.make_graph(nodes, "layers", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()
