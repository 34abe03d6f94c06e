"""The shared nouns. Imports nothing of ours; framework-free apart from jaxlib's MLIR bindings."""

from anychip.core.config import KNOBS, Knob
from anychip.core.dtypes import DTYPES, DType, dtype, nbytes
from anychip.core.errors import (
    AnychipError,
    CompileError,
    InputError,
    PluginError,
    SetupError,
    UnsupportedError,
    UsageError,
    missing_extra,
    unknown,
)
from anychip.core.files import is_full, sha256, shipped_text, write_atomically
from anychip.core.language_model import (
    ChatTemplate,
    Facts,
    LanguageModel,
    PagedShape,
    Precision,
    TextStream,
    Tokenizer,
)
from anychip.core.module import Module
from anychip.core.origin import Origin
from anychip.core.quantity import Estimate, Measurement, Quantity, machine_name, measured
from anychip.core.registry import Chip, Registry, discover
from anychip.core.room import require_memory
from anychip.core.runs import RunFolder
from anychip.core.signature import Argument, Dim, Result, Role, Signature
from anychip.core.spec import (
    ChipSpec,
    Fact,
    Limit,
    LinkSpec,
    MemorySpec,
    NumericsSpec,
    Rule,
    SystemSpec,
    read_chip,
    read_system,
)
from anychip.core.target import (
    CompileOptions,
    Coverage,
    Executable,
    OpCoverage,
    Recalls,
    Recipe,
    Target,
    TargetName,
    simulates,
)
from anychip.core.trace import Span, Trace, TraceKind
from anychip.core.weights import Weight, Weights

__all__ = [
    "DTYPES",
    "KNOBS",
    "AnychipError",
    "Argument",
    "ChatTemplate",
    "Chip",
    "ChipSpec",
    "CompileError",
    "CompileOptions",
    "Coverage",
    "DType",
    "Dim",
    "Estimate",
    "Executable",
    "Fact",
    "Facts",
    "InputError",
    "Knob",
    "LanguageModel",
    "Limit",
    "LinkSpec",
    "Measurement",
    "MemorySpec",
    "Module",
    "NumericsSpec",
    "OpCoverage",
    "Origin",
    "PagedShape",
    "PluginError",
    "Precision",
    "Quantity",
    "Recalls",
    "Recipe",
    "Registry",
    "Result",
    "Role",
    "Rule",
    "RunFolder",
    "SetupError",
    "Signature",
    "Span",
    "SystemSpec",
    "Target",
    "TargetName",
    "TextStream",
    "Tokenizer",
    "Trace",
    "TraceKind",
    "UnsupportedError",
    "UsageError",
    "Weight",
    "Weights",
    "discover",
    "dtype",
    "is_full",
    "machine_name",
    "measured",
    "missing_extra",
    "nbytes",
    "read_chip",
    "read_system",
    "require_memory",
    "sha256",
    "shipped_text",
    "simulates",
    "unknown",
    "write_atomically",
]
