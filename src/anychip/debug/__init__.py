"""Look at what a program computes: layer by layer, on one target against another."""

from anychip.debug.bisect import Culprit, bisect, does_not_compile, is_wrong, prefix
from anychip.debug.diff import Diff, LayerError, Output, diff_language, diff_module
from anychip.debug.inputs import made_up
from anychip.debug.instrument import Probe, instrument

__all__ = [
    "Culprit",
    "Diff",
    "LayerError",
    "Output",
    "Probe",
    "bisect",
    "diff_language",
    "diff_module",
    "does_not_compile",
    "instrument",
    "is_wrong",
    "made_up",
    "prefix",
]
