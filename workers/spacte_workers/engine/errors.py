"""What the engine refuses, in one sentence that names the remedy."""


class EngineError(RuntimeError):
    """The classifier cannot be used as one fixed function, or an option does not fit this machine."""
