"""The errors of the runtime besides `BadImageError`. Each message names the remedy. Light to import."""


class RuntimeFault(Exception):  # noqa: N818  never raised itself
    """Base of everything that the runtime refuses to do, or cannot do now."""


class ModelNotFoundError(RuntimeFault):
    """No model of that name is in the models folder, or none is served."""


class ModelNotNamedError(ModelNotFoundError):
    """Several models are served, and the request names none."""


class ModelNotReadyError(RuntimeFault):
    """The model exists, but is loading, unloaded or failed to load: `state` says which."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


class ModelLoadError(RuntimeFault):
    """A sampler could not load the checkpoint, or the loaded engine failed its check."""


class NoWorkersError(RuntimeFault):
    """There is no sampler to draw noises; one may come back."""


class BadParameterError(RuntimeFault, ValueError):
    """An option that this model or this service does not offer; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class DeadlineExceededError(RuntimeFault):
    """The deadline passed before the first look at the bound; allow more time."""


class NotOneFunctionError(RuntimeFault):
    """Noises that were drawn again got other logits, so that there is no one function that a certificate is about."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(
            message
            or "Rows that were drawn again got other logits, so nothing is certified: make the model one fixed "
            "function, without dropout, batch statistics or counters, and see that all samplers run on machines of one "
            "kind."
        )


class EndpointFaultError(NotOneFunctionError):
    """The endpoint of a model answers what it must not, or another model answers there."""


class EndpointError(RuntimeFault):
    """The endpoint of a model does not answer."""


class NotCalibratedError(RuntimeFault):
    """The model has no calibration for prediction sets that fits what votes now."""


class ClusterError(RuntimeFault):
    """Ray could not be started or joined."""


def check_consensus(k: int | None, heads: int, model: str = "The model") -> None:
    """See that a model has the heads that are to agree.

    Raises:
        BadParameterError: `k` is not None and not in 1..heads.
    """
    if k is not None and not 1 <= k <= heads:
        sentence = f"{model} has {heads} heads: ask for a `k_consensus` of at most {heads}."
        raise BadParameterError("k_consensus", sentence)
