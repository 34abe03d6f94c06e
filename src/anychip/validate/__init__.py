"""Validate: the twins held against published results, row by row, with what cannot be expressed."""

from anychip.validate.predict import Predictor, Skip
from anychip.validate.report import Checked, Report, validate
from anychip.validate.rows import SHIPPED, Published, read

__all__ = [
    "SHIPPED",
    "Checked",
    "Predictor",
    "Published",
    "Report",
    "Skip",
    "read",
    "validate",
]
