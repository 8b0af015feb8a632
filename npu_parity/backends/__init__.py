"""Backends: the devices that can execute a network, one class each, and what is run on them."""
