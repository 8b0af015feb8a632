"""Numerics: how devices round float32 operands, how to emulate it and how to measure it."""
