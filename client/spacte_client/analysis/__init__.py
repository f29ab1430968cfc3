"""Certified accuracy from logs: reading them, intervals, tables and plots. Pure Python, but for the plot."""

from .accuracy import CertifiedAccuracyCurve, Row, Run, curve_at
from .binomial import clopper_pearson
from .logs import LogError, read_log

__all__ = ["CertifiedAccuracyCurve", "LogError", "Row", "Run", "clopper_pearson", "curve_at", "read_log"]
