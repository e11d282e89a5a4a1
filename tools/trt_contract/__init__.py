"""The contract check: what our TensorRT and CUDA code uses exists, with these arguments, in the real bindings.

The real `tensorrt` modules are imported without TensorRT's libraries, over stubs of their entry points, and say what
they offer; two nets hold our files against it: one walks their syntax, one is mypy with stubs made from the bindings.
Nothing is ever executed on a device.
"""
