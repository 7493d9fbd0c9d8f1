"""Random changes of a view's slices while training: drawn first, as plain numbers, then applied with MONAI.

All changes of shape are one resampling, and all slices of a view change alike. What is drawn for a case can depend
on a seed, an epoch and the case alone, whichever process applies it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.layers import AffineTransform, GaussianFilter
from monai.transforms import AdjustContrast
from torch import Tensor

from ..errors import InputError
from ..geometry import SLICE_ORIENTATION
from ..spec import Axis
from .augmentation_spec import AugmentationSpec

# Of [S, C, H, W], in the order of SLICE_ORIENTATION.
SLICES, ROWS, COLUMNS = 0, 2, 3
STEPS = ("rotation", "zoom", "shift", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """What happens to one view of one case; by default nothing.

    `flips` are axes of [S, C, H, W]; `rotation` is in degrees, from the rows' direction to the columns'; `shift` and
    `blur` (sigma) are pixels along (rows, columns); `noise` is the standard deviation and the seed; the rest are
    factors and, for gamma, the exponent.
    """

    flips: tuple[int, ...] = ()
    rotation: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    noise: tuple[float, int] | None = None
    blur: tuple[float, float] | None = None
    brightness: float = 1.0
    contrast: float = 1.0
    low_resolution: float = 1.0
    gamma: float = 1.0

    @property
    def resamples(self) -> bool:
        """Whether pixels move to places between pixels."""
        return (self.rotation, self.zoom, *self.shift) != (0.0, 1.0, 0.0, 0.0)


class Augmentation:
    """Draws the changes of one view. Its state is that of its generator alone, and it costs little to make."""

    def __init__(self, spec: AugmentationSpec, *, axis: Axis, seed: int | Sequence[int] | np.random.Generator) -> None:
        """`axis` is the view's, `seed` one number, several (a seed, an epoch, a case), or the caller's generator."""
        if axis not in get_args(Axis):
            raise InputError(f"A view's axis must be one of {', '.join(get_args(Axis))}, but is '{axis}'.")
        self.spec = spec
        self._rng = np.random.default_rng(seed)
        along = [ras for ras, _ in SLICE_ORIENTATION[axis]]
        self._left_right = (SLICES, ROWS, COLUMNS)[along.index(0)]

    def __call__(self, slices: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Draw, and change slices [S, C, H, W] and their mask [S, H, W] as `change` does."""
        return change(slices, self.draw(len(slices)), mask=mask)

    def draw(self, count: int) -> Draw:
        """The changes of the next case, whose view has `count` slices."""
        # All numbers are drawn, wanted or not: what one step is set to leaves the others as they are.
        turns, chances = self._rng.random(3), self._rng.random(len(STEPS))
        amounts, noise_seed = self._rng.random((len(STEPS), 2)), int(self._rng.integers(1 << 63))
        spec = self.spec
        happens = [bool(chance < getattr(spec, step)) for step, chance in zip(STEPS, chances, strict=True)]
        reach, shift = (-spec.rotation_degrees, spec.rotation_degrees), (-spec.shift_pixels, spec.shift_pixels)
        values: dict[str, Any] = {
            "rotation": _within(reach, amounts[0])[0],
            "zoom": _within(spec.zoom_range, amounts[1])[0],
            "shift": _within(shift, amounts[2]),
            "noise": (spec.noise_std, noise_seed),
            "blur": _within(spec.blur_sigma, amounts[4]),
            "brightness": _within(spec.brightness_range, amounts[5])[0],
            "contrast": _within(spec.contrast_range, amounts[6])[0],
            "low_resolution": _within(spec.low_resolution_range, amounts[7])[0],
            "gamma": _within(spec.gamma_range, amounts[8])[0],
        }
        drawn = {step: values[step] for step, chosen in zip(STEPS, happens, strict=True) if chosen}
        return Draw(flips=self._flips(turns, count), **drawn)

    def _flips(self, turns: np.ndarray, count: int) -> tuple[int, ...]:
        allowed = {SLICES: self.spec.flip_slices, ROWS: self.spec.flip, COLUMNS: self.spec.flip}
        if not self.spec.mirror:
            allowed[self._left_right] = 0.0
            if count == 1:
                # A picture is cut along its own axis, whatever the view asks for: its columns may run to the left.
                allowed[COLUMNS] = 0.0
        return tuple(axis for (axis, chance), turn in zip(allowed.items(), turns, strict=True) if turn < chance)

    def state_dict(self) -> dict[str, Any]:
        """What the next draws depend on, as JSON values (whole numbers of 128 bits among them)."""
        return {"generator": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; raises InputError if this is no such state."""
        try:
            self._rng.bit_generator.state = state["generator"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"The saved state of the augmentation cannot be used ({error}): it is another version's or damaged, "
                "begin the run anew."
            ) from error


def change(slices: Tensor, draw: Draw, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Apply a draw to slices [S, C, H, W] in [0, 1], and what moves pixels also to a mask [S, H, W] of labels.

    Gives float32 in [0, 1] and the mask in its own type; the inputs stay as they are. Where pixels come from
    outside, slices and mask are 0. Raises InputError for a mask of another shape.
    """
    if mask is not None and mask.shape != (len(slices), *slices.shape[2:]):
        raise InputError(
            f"A mask of the shape {list(mask.shape)} does not cover slices of the shape {list(slices.shape)}: cut "
            "both alike."
        )
    if draw == Draw():
        return slices.float(), mask
    changed = _moved(slices.float(), draw, mode="bilinear")
    moved = None if mask is None else _moved(mask[:, None].float(), draw, mode="nearest")[:, 0].to(mask.dtype)
    return _with_other_intensities(changed, draw).clamp(0, 1), moved


def _within(bounds: tuple[float, float], amounts: np.ndarray) -> tuple[float, float]:
    low, high = bounds
    # Rounding must not carry the sum past the end.
    first, second = (min(low + (high - low) * float(amount), high) for amount in amounts)
    return first, second


def _moved(slices: Tensor, draw: Draw, *, mode: str) -> Tensor:
    if draw.flips:
        slices = slices.flip(draw.flips)
    if not draw.resamples:
        return slices
    layer = AffineTransform(mode=mode, padding_mode="zeros", align_corners=True)
    matrix = _pull(draw, slices.shape[2], slices.shape[3]).to(slices.device)
    return _as_one_picture(slices, lambda picture: layer(picture, matrix))


def _pull(draw: Draw, rows: int, columns: int) -> Tensor:
    """The matrix [3, 3] from a (row, column) of the result to one of the input: rotated, zoomed, then shifted."""
    angle = math.radians(draw.rotation)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    back = turn.T / draw.zoom
    middle = np.array([(rows - 1) / 2, (columns - 1) / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = back
    matrix[:2, 2] = middle - back @ (middle + draw.shift)
    return torch.from_numpy(matrix).float()


def _with_other_intensities(slices: Tensor, draw: Draw) -> Tensor:
    if draw.noise is not None:
        std, seed = draw.noise
        # On the CPU, whatever the device, so that every device sees the same noise.
        noise = torch.randn(slices.shape, generator=torch.Generator().manual_seed(seed))
        slices = slices + std * noise.to(slices.device)
    if draw.blur is not None:
        slices = _as_one_picture(slices, GaussianFilter(2, draw.blur).to(slices.device))
    if draw.brightness != 1:
        slices = slices * draw.brightness
    if draw.contrast != 1:
        # In float64, since in float32 the mean would depend on the number of threads.
        mean = slices.mean(dtype=torch.float64).item()
        slices = (slices - mean) * draw.contrast + mean
    if draw.low_resolution != 1:
        slices = _at_low_resolution(slices, draw.low_resolution)
    if draw.gamma != 1:
        slices = AdjustContrast(draw.gamma)(slices).as_subclass(Tensor)
    return slices


def _at_low_resolution(slices: Tensor, share: float) -> Tensor:
    """As MONAI's RandSimulateLowResolution: the nearest pixels of a coarser grid, and linear back."""
    size = slices.shape[2:]
    coarse = F.interpolate(slices, size=[max(1, round(n * share)) for n in size], mode="nearest")
    # Not F.interpolate, whose linear mode rounds in another way with one thread than with several.
    layer = AffineTransform(size, normalized=True, padding_mode="border", align_corners=False)
    matrix = torch.eye(3, device=slices.device)
    return _as_one_picture(coarse, lambda picture: layer(picture, matrix))


def _as_one_picture(slices: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    # As channels of one picture, slices share the grid of a resampling, and a filter is eight times as fast.
    return function(slices.flatten(0, 1)[None])[0].unflatten(0, slices.shape[:2])
