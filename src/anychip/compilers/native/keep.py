"""Steps kept between runs: the plan and its object file, so that a warm start builds nothing.

An entry is a pickle in a cache folder of the user's own, beside code that is run as it stands.
"""

from __future__ import annotations

import hashlib
import pickle
from importlib.metadata import version

from anychip.compilers.cache import cpu_features, own_code
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.jit import Code
from anychip.compilers.native.plan import Plan
from anychip.core import Recipe


def key(recipe: Recipe, isa: Isa, threads: int) -> str:
    """Of everything the code depends on: the recipe, this CPU, LLVM, and anychip's own code."""
    facts = (recipe.key, isa, threads, cpu_features(), version("llvmlite"), own_code())
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def dumps(plan: Plan, code: Code) -> bytes:
    """What `loads` reads."""
    return pickle.dumps((plan, code.binary), pickle.HIGHEST_PROTOCOL)


def loads(stored: bytes | None) -> tuple[Plan, bytes] | None:
    """The plan and its object file; None for nothing."""
    return None if stored is None else pickle.loads(stored)
