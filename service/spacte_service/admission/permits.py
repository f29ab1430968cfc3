"""How many permits each caller holds."""

from collections import Counter


class PermitCounts:
    """Permits by caller.

    Args:
        total: of all callers together.
        per_caller: of one caller; None for all.
    """

    def __init__(self, total: int, per_caller: int | None) -> None:
        self.total = total
        self.per_caller = per_caller
        self._of: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Permits that are held: by requests that run, that wait, and that do not ask for their turn yet."""
        return self._of.total()

    @property
    def all_held(self) -> bool:
        """Whether none is free."""
        return self.held >= self.total

    def of(self, caller: str) -> int:
        """Permits that a caller holds."""
        return self._of[caller]

    def at_limit(self, caller: str) -> bool:
        """Whether a caller holds as many as one may."""
        return self.per_caller is not None and self._of[caller] >= self.per_caller

    def take(self, caller: str) -> None:
        """Count one more."""
        self._of[caller] += 1

    def release(self, caller: str) -> None:
        """Count one less."""
        self._of[caller] -= 1
        if not self._of[caller]:
            del self._of[caller]
