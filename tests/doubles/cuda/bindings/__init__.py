"""Double of `cuda.bindings`: see runtime.py."""
