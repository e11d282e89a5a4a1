"""Double of the namespace package `cuda`."""
