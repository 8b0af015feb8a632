"""Numerics: what devices do to float32, emulated and found out."""
