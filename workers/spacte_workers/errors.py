"""What a caller of the runtime may meet besides `BadImageError`. Each message names the remedy."""


class RuntimeFault(Exception):  # noqa: N818  never raised itself
    """Base of everything that the runtime refuses to do, or cannot do now."""


class ModelNotFoundError(RuntimeFault):
    """No model of that name is in the models folder, or none was named where several are served."""


class ModelNotReadyError(RuntimeFault):
    """The model exists, but is loading, unloaded or failed to load: `state` says which."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


class ModelLoadError(RuntimeFault):
    """A sampler could not load the checkpoint, or the loaded engine failed its check."""


class NoWorkersError(RuntimeFault):
    """No sampler is there to draw noises; one may come back."""


class BadParameterError(RuntimeFault, ValueError):
    """An option that this model or this service does not offer; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class DeadlineExceededError(RuntimeFault):
    """The time allowed was up before anything could be proven."""


class ClusterError(RuntimeFault):
    """Ray could not be started or joined."""
