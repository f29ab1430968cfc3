"""The trainer: multi-head networks, objectives, circular teaching, the training loop and checkpoints."""
