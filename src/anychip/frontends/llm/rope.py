"""Rotary position embedding: the frequencies of each published scaling, and YaRN's amplitude."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anychip.core.errors import InputError, UnsupportedError


@dataclass(frozen=True, kw_only=True)
class Rope:
    """How positions rotate query and key heads (RoFormer, arXiv:2104.09864).

    `interleaved` rotates neighbours (2i, 2i+1), as GGUF files of Llama and DeepSeek's weights
    want; otherwise (i, i + dim/2). Scalings: linear divides every frequency by `factor`
    (arXiv:2306.15595); llama3 divides the long waves and blends between `low_freq` and
    `high_freq` (Llama 3.1 model card's code); yarn is arXiv:2309.00071, its ramp between
    `beta_fast` and `beta_slow` rotations within `original_context`. `frequency_factors` (GGUF's
    rope_freqs tensor, dim/2 long) divides frequencies after all that.
    """

    theta: float
    dim: int = 0  # how many leading numbers of a head rotate; 0: the whole head
    interleaved: bool = False
    scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_context: int = 0
    low_freq: float = 1.0
    high_freq: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # round YaRN's ramp bounds to whole dimensions
    mscale: float = 0.0  # YaRN amplitude exponents; 0: not given
    mscale_all_dim: float = 0.0
    frequency_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.theta <= 1:
            raise InputError(f"{self.theta} is not a base above 1", field="rope.theta")
        if self.factor < 1:
            raise InputError(f"{self.factor} is below 1", field="rope.factor")
        if self.scaling in ("llama3", "yarn") and self.original_context < 1:
            raise InputError(f"{self.scaling} needs it", field="rope.original_context")

    def inverse_frequencies(self, dim: int) -> np.ndarray:
        """f32[dim/2]: radians a position turns each pair of a head that rotates `dim` numbers.

        Raises InputError when frequency_factors has another length.
        """
        plain = 1.0 / self.theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
        scaled = {
            "none": lambda: plain,
            "linear": lambda: plain / self.factor,
            "llama3": lambda: self._llama3(plain),
            "yarn": lambda: self._yarn(plain, dim),
        }[self.scaling]()
        if self.frequency_factors:
            if len(self.frequency_factors) != dim // 2:
                raise InputError(
                    f"{len(self.frequency_factors)} factors for {dim // 2} frequencies",
                    field="rope.frequency_factors",
                )
            scaled = scaled / np.asarray(self.frequency_factors, np.float64)
        return scaled.astype(np.float32)

    def _llama3(self, plain: np.ndarray) -> np.ndarray:
        turns = self.original_context * plain / (2 * math.pi)  # over the original context
        blend = np.clip((turns - self.low_freq) / (self.high_freq - self.low_freq), 0, 1)
        return (1 - blend) * plain / self.factor + blend * plain

    def _yarn(self, plain: np.ndarray, dim: int) -> np.ndarray:
        def dimension(turns: float) -> float:  # equation 18, solved for the dimension
            return (
                dim
                * math.log(self.original_context / (turns * 2 * math.pi))
                / (2 * math.log(self.theta))
            )

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
        return plain / self.factor * ramp + plain * (1 - ramp)

    def attention_factor(self, *, latent: bool) -> float:
        """What YaRN's amplitude multiplies query·key by; 1 without YaRN.

        Whole rotated heads: the square of the amplitude (equation 22). Latent attention rotates a
        part of a head only, so there the amplitude must be 1 and `mscale_all_dim` scales it all
        (DeepSeek-V3's reference code); UnsupportedError otherwise.
        """
        if self.scaling != "yarn":
            return 1.0

        def amplitude(exponent: float) -> float:
            return 0.1 * exponent * math.log(self.factor) + 1.0

        given = self.mscale > 0 and self.mscale_all_dim > 0
        rotated = amplitude(self.mscale) / amplitude(self.mscale_all_dim) if given else amplitude(1)
        if not latent:
            return rotated**2
        if rotated != 1.0:
            raise UnsupportedError(
                f"YaRN with mscale = {self.mscale} and mscale_all_dim = {self.mscale_all_dim} "
                "scales the rotated part of a latent head alone, which no known model does; "
                "give equal values."
            )
        return amplitude(self.mscale_all_dim) ** 2
