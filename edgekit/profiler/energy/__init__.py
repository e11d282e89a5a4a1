"""Joules per inference: meters, the integral over a window, and its uncertainty."""
