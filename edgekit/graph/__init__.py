"""Torch to ONNX, the visible list of graph passes, and what a target's rules say of a graph."""
