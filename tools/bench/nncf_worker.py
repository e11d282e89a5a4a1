"""Quantize an ONNX file with NNCF, in an environment of its own: `nncf_worker.py MODEL.onnx SAMPLES.npz OUT.xml TYPE`.

SAMPLES.npz holds one array, named after the model's only input, with the samples along its first axis. TYPE is `cnn` or
`transformer`. Writes OpenVINO's IR with fp32 constants. `peers.nncf_int8` calls it.
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import openvino as ov


def main(source: str, samples: str, target: str, kind: str) -> None:
    """Quantize with NNCF's defaults, on all samples one by one."""
    with np.load(samples, allow_pickle=False) as arrays:
        ((name, array),) = arrays.items()
    model = ov.Core().read_model(source)
    data = nncf.Dataset([{name: array[i : i + 1]} for i in range(len(array))])
    model_type = nncf.ModelType.TRANSFORMER if kind == "transformer" else None
    quantized = nncf.quantize(model, data, model_type=model_type, subset_size=len(array))
    ov.save_model(quantized, target, compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
