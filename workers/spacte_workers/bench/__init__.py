"""Measurements: samples to decide, samples a second."""
