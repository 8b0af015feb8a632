"""Backends: one class for each kind of device, and the code that runs networks on devices."""
