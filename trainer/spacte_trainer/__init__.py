"""The trainer: multi-head networks, objectives, circular teaching, the training loop and checkpoints.

Docstrings cite formulas and settings by section: METHODS is `docs/methods.md`.
"""
