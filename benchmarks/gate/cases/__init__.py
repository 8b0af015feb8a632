"""The cases of the catalogue, a module for each kind of place. Their import registers them."""

from cases import (
    branch,
    devices,
    host,
    inputs,
    kernel,
    memory,
    program,
    rewritten,
    right_kernels,
    state,
    storage,
    weights,
    wrapped,
)

__all__ = [
    "branch",
    "devices",
    "host",
    "inputs",
    "kernel",
    "memory",
    "program",
    "rewritten",
    "right_kernels",
    "state",
    "storage",
    "weights",
    "wrapped",
]
