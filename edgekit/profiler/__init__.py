"""Latency and energy of a bundle on the machine at hand, with intervals, conditions and reasons."""
