"""The heads of `head_phantom` as a CT and as an MR would show them: the same anatomy, another contrast."""

from __future__ import annotations

import dataclasses

import numpy as np

from AnyMC3DLib.phantom import head_phantom
from AnyMC3DLib.volume import Volume

SHAPE, SPACING = (16, 56, 48), (3.5, 3.5, 8.75)
# Values of the phantom: air, fluid, scalp, brain, lesion, bone.
TISSUES = (0, 48, 78, 100, 140, 225)
HOUNSFIELD = (-1000, 5, -60, 35, 62, 1100)
# As a T1-weighted image: fat bright, brain grey, fluid dark, bone without signal.
T1 = (0, 90, 520, 380, 210, 40)


def _head(seed: int, values: tuple[float, ...], *, lesion: bool, noise: float) -> Volume:
    volume = head_phantom(seed, lesion=lesion, shape=SHAPE, spacing=SPACING, lesion_radii_mm=(14, 20)).volume
    image = np.interp(volume.array, TISSUES, values)
    image += np.random.default_rng([seed, 7]).normal(0, noise, image.shape)
    return dataclasses.replace(volume, array=image.round().astype(np.int16))


def ct_head(seed: int, *, lesion: bool = False) -> Volume:
    """A head in Hounsfield units, without saying that it is a CT."""
    return _head(seed, HOUNSFIELD, lesion=lesion, noise=12)


def mr_head(seed: int, *, lesion: bool = False) -> Volume:
    """A T1-weighted head, without saying that it is an MR."""
    return _head(seed, T1, lesion=lesion, noise=12)


def with_values_of(volume: Volume, other: Volume) -> Volume:
    """`volume` with its values moved onto the percentiles of `other`: no range, nor histogram, tells them apart."""
    ranks = volume.array.argsort(axis=None).argsort()
    wanted = np.quantile(other.array, ranks / (ranks.size - 1)).reshape(volume.array.shape)
    return dataclasses.replace(volume, array=wanted.round().astype(np.int16))
