"""Which requests are taken in, in which order they run, and when a refused one is to come back."""

from .admission import Admission, Arrival, Permit
from .work import Demand

__all__ = ["Admission", "Arrival", "Demand", "Permit"]
