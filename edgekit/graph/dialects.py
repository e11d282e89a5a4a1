"""How each runtime wants its quantized graphs written, as data. Why one file cannot serve all was measured:

the form that TensorRT asks for (symmetric int8, Q before the consumer) runs 1.9 times slower than float in ONNX
Runtime, which fuses a convolution only between Q/DQ pairs on both sides, and TensorRT refuses every zero point.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """A runtime's form.

    Attributes:
        name: the runtime.
        affine: activations are uint8 with a zero point; otherwise int8, symmetric, zero point 0.
        closed: results of convolutions and carriers are rounded even where the next reader is float.
        gemm: a `MatMul` with its bias is written as `Gemm` on rows, with an int32 bias.
        int32_bias: biases are integers in steps of the accumulator.
        tiny_bias: a matrix product without a bias gets one that changes nothing. OpenVINO 2026.4.1, told to use one
            thread, computes garbage where such a product's result is rounded in the same kernel (`brgemm_avx512_I8`,
            measured; with a bias, or with two threads, it does not).
        half_scales: scales are rounded to fp16 first, since the file will hold them so.
        dynamic: ranges at run time can be expressed.
    """

    name: str
    affine: bool = False
    closed: bool = False
    gemm: bool = False
    int32_bias: bool = False
    tiny_bias: bool = False
    half_scales: bool = False
    dynamic: bool = False


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("onnxruntime", affine=True, closed=True, gemm=True, int32_bias=True, dynamic=True),
        Dialect("openvino", affine=True, tiny_bias=True),
        Dialect("tensorrt", half_scales=True),
    )
}
