"""Does an int8 model compute the same on Arm as here, and is that what its file says?

    PYTHONPATH=tools .venv/bin/python -m arm64_check MODEL.onnx|BUNDLE ... [--layers] [--openvino]

Each model runs in ONNX Runtime on this machine and in ONNX Runtime's aarch64 build under emulation of a named core, and
both are compared with the integer reference, layer by layer, in output steps.
"""
