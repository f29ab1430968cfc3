"""What `tests/conformance.py` runs: one check a function of the reference vectors."""

from . import attacks, losses, networks, tables, training
from .case import CHECKS, Case, Outcome, check

__all__ = ["CHECKS", "Case", "Outcome", "attacks", "check", "losses", "networks", "tables", "training"]
