"""The digits' former address, kept for scripts outside this repository."""

from spacte_core.data.digits import load_digits

__all__ = ["load_digits"]
