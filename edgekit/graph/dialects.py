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
            thread, computes garbage where such a product's result is rounded before the next one (measured).
        barrier: a matrix of a known number of rows passes through an identity (LeakyRelu with slope 1) before it is
            rounded, which the runtime does not take into one kernel with two products. OpenVINO 2026.4.1 fuses products
            of matrices that follow one another (`TokenizeMLPSeqSnippets`) where the first has at most 8 rows, and its
            kernel computes garbage where the bias is zero, uniform, or followed by a constant factor, `tiny_bias` or
            not. Measured on AVX-512: on one thread with 1 to 8 rows, on two with 4, 6 and 8; 9 rows, rank 3, an open
            batch and float products are right. What it costs is that kernel: nothing measurable in a DeiT-like net
            (0.995, one barrier), 33 us instead of 23 in four layers of 64.
        products: attention's products of queries and keys are in int8, symmetric, since a zero point costs what is won.
            OpenVINO 2026.4.1 has them in one kernel with the softmax: DeiT-S takes 0.93 of the time (measured; 1.01
            with zero points). ONNX Runtime has no such kernel, and TensorRT fuses attention in fp16.
        quads: channels of a graph's input are filled up to a multiple of 4 in front of a convolution. ONNX Runtime's
            fast integer kernels take such only (MLAS, `ConvSym`), and a picture has 3: MobileNetV2's first convolution
            took 379 us of 3344, and 191 with a fourth (measured with 1.32.0).
        global_pool: a mean over all of space is written as GlobalAveragePool, which ONNX Runtime has in integers.
        half_scales: scales are rounded to fp16 first, since the file will hold them so.
        dynamic: ranges at run time can be expressed.
    """

    name: str
    affine: bool = False
    closed: bool = False
    gemm: bool = False
    int32_bias: bool = False
    tiny_bias: bool = False
    barrier: bool = False
    products: bool = False
    quads: bool = False
    global_pool: bool = False
    half_scales: bool = False
    dynamic: bool = False


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "onnxruntime",
            affine=True,
            closed=True,
            gemm=True,
            int32_bias=True,
            quads=True,
            global_pool=True,
            dynamic=True,
        ),
        Dialect("openvino", affine=True, tiny_bias=True, barrier=True, products=True),
        Dialect("tensorrt", half_scales=True),
    )
}
