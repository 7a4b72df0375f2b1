"""Processors other than this one, as Numba is told to compile for them."""

from typing import NamedTuple

V2 = "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"
V3 = f"{V2},+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
V4 = f"{V3},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"


class Processor(NamedTuple):
    """What LLVM calls it and its features, and its vector unit: bytes of a register, and how many there are."""

    name: str
    features: str
    unit: tuple[int, int]

    @property
    def environment(self):
        return {"NUMBA_CPU_NAME": self.name, "NUMBA_CPU_FEATURES": self.features}


PROCESSORS = {
    "avx512": Processor("skylake-avx512", V4, (64, 32)),
    "avx2": Processor("haswell", V3, (32, 16)),
    "sse": Processor("x86-64-v2", V2, (16, 16)),
    "neon": Processor("neoverse-n1", "+neon", (16, 32)),
}
