"""The kernels as other processors run them: a handful of tests again, compiled for older vector units."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processors import PROCESSORS

pytest.importorskip("numba", reason="the CPU kernels need Numba")

from numba.core.codegen import get_host_cpu_features

CONV = ("3x3", "33 to 50 channels", "stem", "depthwise", "3d mixed")
TESTS = [
    *(
        f"test_conv.py::test_{way}_is_the_definition[float32-numba-{case}]"
        for way in ("forward", "backward")
        for case in CONV
    ),
    *(f"test_pixels.py::test_it_is_the_definition[{case}-float32]" for case in ("1x1 in place", "groups")),
    "test_conv.py::test_a_nan_reaches_only_the_gradients_of_weights_that_met_it[numba-same, stride 2]",
    *(f"test_pool.py::test_{kind}_is_the_definition[float32-numba-3x3 stride 2]" for kind in ("max", "max_backward")),
    "test_pool.py::test_avg_is_the_definition[float32-numba-3x3 stride 2-rule0]",
    "test_dense.py::test_forward_is_the_definition[float32-numba-around 48]",
    "test_dense.py::test_backward_is_the_definition[float32-numba-around 48]",
    *(f"test_activation.py::test_it_is_the_definition[float32-numba-{name}]" for name in ("gelu", "elu")),
    "test_fused.py::test_convolution[float32-numba-1x1 in place-silu]",
    "test_kernels.py::test_nothing_beside_an_array_is_read[True-float32-1]",
    "test_kernels.py::test_windows_may_be_gathered_in_panels_or_not[((2, 5, 9, 11), (7, 5, 3, 3), 2, 1, 1, 1)-float32]",
    *(f"test_planes.py::test_depthwise_planes[{taps}-float32]" for taps in (3, 5)),
    *(
        f"test_norm.py::test_the_definition[float32-numba-{case}-around 0]"
        for case in ("batch 49 pixels", "groups", "layer")
    ),
    "test_softmax.py::test_softmax_is_the_definition[float32-numba-shape10-0]",
]
RUN = """
import sys, pytest
from cnnkit.rooms.numba import machine
print("made for", machine.VECTOR_BYTES, machine.REGISTERS)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("name", ["avx2", "sse"])
def test_layers_are_right_on(name, tmp_path):
    processor = PROCESSORS[name]
    lacking = [flag[1:] for flag in processor.features.split(",") if flag not in get_host_cpu_features().split(",")]
    if lacking:
        pytest.skip(f"this processor has no {', '.join(lacking)}")
    environment = os.environ | processor.environment | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", RUN, *TESTS]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.startswith(f"made for {processor.unit[0]} {processor.unit[1]}\n"), done.stderr
    assert done.returncode == 0, done.stdout
    assert f"{len(TESTS)} passed" in done.stdout
