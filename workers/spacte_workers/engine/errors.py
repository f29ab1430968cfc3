"""What the engine refuses, in one sentence that names the remedy."""


class EngineError(RuntimeError):
    """The classifier cannot be used as one fixed function, or an option does not fit this machine."""


class NoSuchKernelsError(EngineError):
    """The kernels that have to vote do not run on this machine."""

    def __init__(self, kernels: str) -> None:
        super().__init__(
            f"The kernels '{kernels}' do not run here, and others would vote a little differently: use a machine of "
            "the same kind, with a C++ compiler."
        )
