"""Stored position embeddings at another size of slices, taken there as the weights' own library takes them.

timm resamples with antialiasing; others do not, or shift the grid by a part of a patch. A network that was trained or
published with one way gives other tokens in the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import RotaryEmbeddingDinoV3
from torch import Tensor, nn

from .architecture import Positions
from .errors import BackboneError


def resampled(stored: Tensor, *, prefix: int, native: tuple[int, int], grid: tuple[int, int], how: Positions) -> Tensor:
    """Embeddings [1, prefix + h w, D] of the `native` grid (h, w) for another `grid`; those of prefix tokens stay."""
    if grid == native:
        return stored
    kept, patches = stored[:, :prefix], stored[:, prefix:]
    patches = patches.float().unflatten(1, native).permute(0, 3, 1, 2)
    if how.offset:
        # The sampling follows the scale that the offset gives; the size comes out as asked.
        scale = [(new + how.offset) / old for new, old in zip(grid, native, strict=True)]
        patches = F.interpolate(
            patches, scale_factor=scale, mode=how.mode, align_corners=False, antialias=how.antialias
        )
    else:
        patches = F.interpolate(patches, size=grid, mode=how.mode, align_corners=False, antialias=how.antialias)
    if tuple(patches.shape[2:]) != grid:
        raise BackboneError(f"Positions cannot be resampled to {grid[0]} x {grid[1]} patches: choose another size.")
    return torch.cat([kept, patches.permute(0, 2, 3, 1).flatten(1, 2).to(stored.dtype)], dim=1)


class OwnPositions:
    """Mixed into a class of timm's transformers: what `_pos_embed` adds is resampled as `positions` says."""

    positions: Positions

    def _pos_embed(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        grid, native = (int(x.shape[1]), int(x.shape[2])), tuple(self.patch_embed.grid_size)
        if grid == native:
            return super()._pos_embed(x)
        stored = self.pos_embed
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        # timm leaves embeddings alone whose grid is that of the slices already.
        self._parameters["pos_embed"] = resampled(stored, prefix=prefix, native=native, grid=grid, how=self.positions)
        self.patch_embed.grid_size = grid
        try:
            return super()._pos_embed(x)
        finally:
            self._parameters["pos_embed"] = stored
            self.patch_embed.grid_size = native


def rotary_periods(theta: float, count: int, *, rounded: bool) -> Tensor:
    """The periods [count] of DINOv3's rotary positions, in float32; `rounded` as in its authors' training."""
    # Under a context of another device too, as timm does it.
    numbers = torch.arange(count, dtype=torch.bfloat16 if rounded else torch.float32, device="cpu")
    return (theta ** (2 * numbers / (2 * count))).float()


class RoundedPeriods(RotaryEmbeddingDinoV3):
    """timm's rotary positions of DINOv3, with the periods that its authors' files hold."""

    def _compute_periods(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        return rotary_periods(self.temperature, self.dim // 4, rounded=True).to(device=device, dtype=dtype)


def _round_periods(model: nn.Module) -> None:
    rope = getattr(model, "rope", None)
    if type(rope) is not RotaryEmbeddingDinoV3:
        raise BackboneError(f"timm's {type(model).__name__} has no rotary positions whose periods can be rounded.")
    rope.__class__ = RoundedPeriods
    rope.reset_parameters()


def use_positions(model: nn.Module, positions: Positions) -> None:
    """Let a transformer of timm's take positions as `positions` says; one without them is left as it is.

    Raises BackboneError if timm's class of model cannot do so.
    """
    if positions.rounded_periods:
        _round_periods(model)
    if positions.kind != "resampled" or getattr(model, "pos_embed", None) is None:
        return
    if not getattr(model, "dynamic_img_size", False) or not hasattr(model, "no_embed_class"):
        raise BackboneError(f"timm's {type(model).__name__} keeps positions in a way that cannot be resampled.")
    model.positions = positions
    # A class, not a method put on the model: copies of the model then keep their own.
    model.__class__ = type(f"Positioned{type(model).__name__}", (OwnPositions, type(model)), {})
