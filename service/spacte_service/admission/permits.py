"""How many permits each caller holds."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class PermitCounts:
    """Permits by caller."""

    total: int
    per_caller: int | None  # None for all of them
    _of: Counter[str] = field(default_factory=Counter[str])

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
