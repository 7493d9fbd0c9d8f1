"""How the slices of a training case are changed at random. Needs the standard library alone."""

from __future__ import annotations

import dataclasses

from ..errors import InputError
from ..records import Record

CHANCES = (
    "flip",
    "flip_slices",
    "rotation",
    "zoom",
    "shift",
    "noise",
    "blur",
    "brightness",
    "contrast",
    "low_resolution",
    "gamma",
)
# The least and the most that a range may hold; the least of those that divide or multiply is above 0.
RANGES = {
    "zoom_range": (0.1, 10.0),
    "blur_sigma": (0.01, 20.0),
    "brightness_range": (0.01, 10.0),
    "contrast_range": (0.01, 10.0),
    "low_resolution_range": (0.05, 1.0),
    "gamma_range": (0.05, 20.0),
}
AMOUNTS = {"rotation_degrees": 180.0, "shift_pixels": 4096.0, "noise_std": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationSpec(Record):
    """Random changes in the order of the fields, one draw for all slices of a view, on intensities in [0, 1].

    A field without an ending is the probability of its step: 0 by default, so that nothing changes. The others say
    how far it goes, and are those of the paper (AnyMC3D, arXiv 2512.12887, appendix A3): `rotation_degrees` and
    `shift_pixels` either way, `noise_std` in intensities, `blur_sigma` in pixels, and factors. A zoom above 1 enlarges.

    `flip` holds for rows and columns each, `flip_slices` for the order of the slices. Without `mirror` no flip
    exchanges left and right.
    """

    flip: float = 0.0
    flip_slices: float = 0.0
    mirror: bool = True
    rotation: float = 0.0
    rotation_degrees: float = 30.0
    zoom: float = 0.0
    zoom_range: tuple[float, float] = (0.7, 1.4)
    shift: float = 0.0
    shift_pixels: float = 10.0
    noise: float = 0.0
    noise_std: float = 0.02
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    brightness: float = 0.0
    brightness_range: tuple[float, float] = (0.75, 1.25)
    contrast: float = 0.0
    contrast_range: tuple[float, float] = (0.75, 1.25)
    low_resolution: float = 0.0
    low_resolution_range: tuple[float, float] = (0.5, 1.0)
    gamma: float = 0.0
    gamma_range: tuple[float, float] = (0.7, 1.5)

    @classmethod
    def paper(cls) -> AugmentationSpec:
        """The recipe of the paper."""
        return cls(
            flip=0.5,
            flip_slices=0.5,
            rotation=0.2,
            zoom=0.2,
            shift=0.2,
            noise=0.25,
            blur=0.2,
            brightness=0.15,
            contrast=0.15,
            low_resolution=0.2,
            gamma=0.25,
        )

    def __post_init__(self) -> None:
        # Written so that a NaN is refused too.
        for name, most in {**dict.fromkeys(CHANCES, 1.0), **AMOUNTS}.items():
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"'{name}' must lie within 0 to {most:g}, but is {getattr(self, name):g}.")
        for name, (least, most) in RANGES.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise InputError(f"'{name}' must rise within {least:g} to {most:g}, but is {low:g} to {high:g}.")
