"""Torch cases: resampled images and Fourier transforms."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch_tensors import Group, randn

IMAGES: Group = {
    "nearest": lambda t: F.interpolate(t.IMAGE, scale_factor=2),
    "nearest size": lambda t: F.interpolate(t.IMAGE, (5, 13)),
    "nearest-exact": lambda t: F.interpolate(t.IMAGE, (5, 13), mode="nearest-exact"),
    "linear": lambda t: F.interpolate(t.LINE, 17, mode="linear"),
    "bilinear": lambda t: F.interpolate(t.IMAGE, (13, 6), mode="bilinear"),
    "bilinear corners": lambda t: F.interpolate(
        t.IMAGE, (13, 6), mode="bilinear", align_corners=True
    ),
    "bilinear scale": lambda t: F.interpolate(t.IMAGE, scale_factor=1.7, mode="bilinear"),
    "bicubic": lambda t: F.interpolate(t.IMAGE, (13, 6), mode="bicubic"),
    "bicubic corners": lambda t: F.interpolate(
        t.IMAGE, (5, 23), mode="bicubic", align_corners=True
    ),
    "bilinear antialias": lambda t: F.interpolate(t.IMAGE, (5, 6), mode="bilinear", antialias=True),
    "bicubic antialias": lambda t: F.interpolate(t.IMAGE, (5, 16), mode="bicubic", antialias=True),
    "trilinear": lambda t: F.interpolate(t.VOLUME, (7, 3, 9), mode="trilinear"),
    "area": lambda t: F.interpolate(t.IMAGE, (3, 4), mode="area"),
    "grid_sample": lambda t: F.grid_sample(t.IMAGE, _grid(2, 5, 6, 2), align_corners=False),
    "grid_sample reflect": lambda t: F.grid_sample(
        t.IMAGE, _grid(2, 5, 6, 2), padding_mode="reflection", align_corners=True
    ),
    "grid_sample nearest": lambda t: F.grid_sample(
        t.IMAGE, _grid(2, 5, 6, 2), mode="nearest", padding_mode="border", align_corners=False
    ),
    "grid_sample bicubic": lambda t: F.grid_sample(
        t.IMAGE, _grid(2, 5, 6, 2), mode="bicubic", align_corners=False
    ),
    "grid_sample 3d": lambda t: F.grid_sample(t.VOLUME, _grid(1, 3, 4, 5, 3), align_corners=False),
    "affine_grid": lambda t: F.affine_grid(randn(2, 2, 3), [2, 4, 5, 6], align_corners=False),
}


def _grid(*shape: int) -> torch.Tensor:
    return torch.tanh(randn(*shape, seed=9)) * 1.2


FOURIER: Group = {
    "fft": lambda t: torch.fft.fft(t.X),
    "rfft": lambda t: torch.fft.rfft(t.X, norm="ortho"),
    "irfft": lambda t: torch.fft.irfft(t.COMPLEX, n=9),
    "fft2": lambda t: torch.fft.fft2(t.COMPLEX, norm="forward"),
    "ifft": lambda t: torch.fft.ifft(t.COMPLEX),
    "rfftn": lambda t: torch.fft.rfftn(t.X, dim=(1, 2)),
    "irfft2": lambda t: torch.fft.irfft2(t.COMPLEX, s=(4, 8)),
    "fftshift": lambda t: torch.fft.fftshift(t.X, dim=(1,)),
    "stft": lambda t: torch.stft(
        randn(2, 64), 16, 8, window=torch.hann_window(16), return_complex=True
    ),
    "istft": lambda t: torch.istft(
        torch.stft(randn(2, 64), 16, 8, window=torch.hann_window(16), return_complex=True),
        16,
        8,
        window=torch.hann_window(16),
    ),
}
