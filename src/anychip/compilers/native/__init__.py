"""`cpu:native`: our own code generator for token steps. See target.py, then plan.py."""

from anychip.compilers.native.target import NativeTarget

__all__ = ["NativeTarget"]
