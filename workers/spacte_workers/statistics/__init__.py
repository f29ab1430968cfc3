"""Bounds, confidence sequences, stopping rules and metrics: pure NumPy and SciPy, no torch, no Ray."""
