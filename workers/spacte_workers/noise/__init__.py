"""Noise that is a function of (seed, image, phase, sample) alone, exact on the grid or plain Gaussian."""
