"""Head-like phantoms with and without a lesion, for the demonstration and the tests.

Not a simulation of a scanner: a study looks like an axial head scan, every seed is another head, and the place of
the lesion is known exactly. Lengths are millimetres, values arbitrary units in which brain is about 100.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .geometry import Affine, transform_points
from .volume import Volume

AIR, FLUID, SCALP, BRAIN, BONE, NOISE = 2.0, 48.0, 78.0, 100.0, 225.0, 4.0
CLEARANCE = 3.0  # at least between the lesion and the skull

Grid = tuple[int, int, int]
Spacing = tuple[float, float, float]
Array = npt.NDArray[np.floating]
Points = tuple[Array, Array, Array]  # towards the head's own right, front and top, from the middle of the brain


@dataclasses.dataclass(frozen=True)
class Phantom:
    """A study and the truth about it.

    `mask` is boolean [k, j, i], all False without a lesion; `lesion_ras` is the mask's centroid and
    `lesion_radius_mm` the radius of a ball of its volume, both None without a lesion.
    """

    volume: Volume
    mask: npt.NDArray[np.bool_]
    lesion_ras: tuple[float, float, float] | None
    lesion_radius_mm: float | None


def head_phantom(
    seed: int,
    *,
    lesion: bool,
    shape: Grid = (40, 112, 96),
    spacing: Spacing = (1.75, 1.75, 3.5),
    lesion_radii_mm: tuple[float, float] = (10.0, 15.0),
) -> Phantom:
    """The head `seed`, int16, of `shape` (k, j, i) and `spacing` (i, j, k); the same arguments give the same study.

    The mean radius of the lesion is drawn within `lesion_radii_mm`; below 4 mm it is as small as the harmless specks.
    With and without the lesion a seed gives the same head, noise and header, so that the lesion is the one
    difference. The head is about 140 x 170 x 120 mm and is cut off where the field of view ends. Raises InputError
    if the field of view has no room for the lesion.
    """
    # Streams of their own: drawing a lesion must not change the head.
    anatomy, scanner, disease = (np.random.default_rng([seed, stream]) for stream in range(3))
    points = _head_points(shape, spacing, anatomy)
    image, inside = _head(points, anatomy)
    _add_specks(image, points, inside, anatomy)
    affine = _header(shape, spacing, scanner)
    mask, centre, radius = np.zeros(shape, dtype=bool), None, None
    if lesion:
        share = _lesion_share(points, inside, disease, lesion_radii_mm)
        _paint(image, BRAIN + disease.uniform(32, 48) + 3 * _waves(points, disease, wavelength=(8, 20)), share)
        mask = share >= 0.5
        centre = tuple(transform_points(affine, np.argwhere(mask).mean(axis=0)[::-1]).tolist())
        radius = float(np.cbrt(mask.sum() * np.prod(spacing) * 3 / (4 * np.pi)))
    image *= 1 + 0.05 * _waves(points, scanner, wavelength=(250, 500))
    image += NOISE * scanner.standard_normal(shape, dtype=np.float32)
    values = np.rint(np.abs(image)).astype(np.int16)  # a magnitude, as scanners give: noise in air is positive too
    return Phantom(Volume(values, affine, name=f"phantom {seed}"), mask, centre, radius)


def _head_points(shape: Grid, spacing: Spacing, rng: np.random.Generator) -> Points:
    """Where the voxels lie in the head, which is a little turned and shifted in the field of view."""
    # i runs to the patient's left, j to the back, k to the top, as an axial series is stored.
    k, j, i = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing[::-1], strict=True))
    turn, shift = _rotation(rng.uniform(-1, 1, 3) * (4, 3, 7)), rng.uniform(-1, 1, 3) * (4, 3, 3) + (0, 0, 14)
    rows = (s - a * i - b * j[:, None] + c * k[:, None, None] for (a, b, c), s in zip(turn, shift, strict=True))
    return tuple(row.astype(np.float32) for row in rows)


def _header(shape: Grid, spacing: Spacing, rng: np.random.Generator) -> Affine:
    """An axial header, oblique by some degrees, with the field of view's middle near the scanner's."""
    affine = np.eye(4)
    affine[:3, :3] = _rotation(rng.uniform(-1, 1, 3) * (8, 4, 4)) @ np.diag([-1, -1, 1]) @ np.diag(spacing)
    affine[:3, 3] = rng.uniform(-12, 12, 3) - affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    return affine


def _rotation(degrees: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """A 3x3 rotation about R, then A, then S."""
    (a, b, c), (d, e, f) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_r, about_a = np.array([[1, 0, 0], [0, a, -d], [0, d, a]]), np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    return np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]]) @ about_a @ about_r


def _head(points: Points, rng: np.random.Generator) -> tuple[Array, Array]:
    """The head without specks, lesion, bias and noise, and how far inside the brain each voxel lies: [k, j, i]."""
    x, y, z = points
    half = rng.uniform(65, 73), rng.uniform(79, 89), rng.uniform(66, 75)
    skull, brain = np.cumsum(rng.uniform((5, 6), (8, 8))).tolist()  # where they begin, below the skin
    # Wider at the back, and below its middle a head goes on as a neck and not as the other half of an egg.
    right, front, top = x / half[0] / (1 - 0.1 / half[1] * y), y / half[1], np.where(z > 0, z, 0.4 * z) / half[2]
    radius = (np.abs(right) ** 2.2 + np.abs(front) ** 2.2 + np.abs(top) ** 2.2) ** (1 / 2.2)
    depth = (1 - radius) * ((half[0] + half[1]) / 2)
    base = _above_skull_base(points)
    inside = np.minimum(depth - brain, base - 2)
    image = AIR + (SCALP - AIR) * _ramp(depth)
    _paint(image, 45, _ellipsoid((np.abs(x), y, z), (31, 56, -44), (17, 17, 15)))  # orbits
    _paint(image, 72, _ellipsoid((np.abs(x), y, z), (31, 60, -43), (12, 12, 12)))
    _paint(image, AIR, _ellipsoid(points, (0, 52, -50), (11, 24, 18)))
    marrow = 45 * np.exp(-(((depth - (skull + brain) / 2) / 1.6) ** 2))
    _paint(image, BONE - marrow, _ramp(depth - skull) * _ramp(np.maximum(brain - depth, 2 - np.abs(base))))
    _paint(image, FLUID, _ramp(inside))
    _paint(image, _brain(points, inside, rng), _ramp(inside - 1.5))
    _add_midline(image, points, inside, size=rng.uniform(0.75, 1.35))
    return image, inside


def _above_skull_base(points: Points) -> Array:
    """About how far a point lies above the floor of the skull, which falls in two steps from front to back."""
    x, y, z = points
    wing, petrous = y - 6 - 0.35 * np.abs(x), y + 6 + 0.5 * np.abs(x)
    fall = 16 / (1 + np.exp(wing / 4)) + 40 / (1 + np.exp(petrous / 4))
    ridge = 9 * np.exp(-((petrous / 6) ** 2)) + 10 * np.exp(-((x / 14) ** 2 + ((y - 2) / 16) ** 2))
    roofs = 7 * np.exp(-(((np.abs(x) - 30) / 14) ** 2) - ((y - 48) / 20) ** 2)
    steepness = 1 + 1.4 * np.exp(-((wing / 7) ** 2)) + 2.4 * np.exp(-((petrous / 7) ** 2))  # height is not distance
    return (z + 34 + fall - ridge - roofs) / steepness


def _brain(points: Points, inside: Array, rng: np.random.Generator) -> Array:
    """Cortex with dark sulci over white matter, deep grey matter, and a slow texture."""
    x, y, z = points
    cortex = np.exp(-np.maximum(inside, 0) / 9)
    # The zero surfaces of a field of waves wind as sulci do.
    sulci = np.exp(-((_waves(points, rng, wavelength=(17, 30), count=8) / 0.22) ** 2))
    deep = 7 * _ellipsoid((np.abs(x), y, z), (20, 6, -1), (9, 18, 12), soft=2.5)
    return BRAIN - 5 + (12 - 46 * sulci) * cortex + deep + 4 * _waves(points, rng, wavelength=(40, 120))


def _add_midline(image: Array, points: Points, inside: Array, *, size: float) -> None:
    """The falx, and the ventricles, `size` times as large as common."""
    x, y, z = points
    image += 24 * np.exp(-((x / 1.4) ** 2)) * _ramp(np.hypot(y, z - 5) - 36, soft=5) * _ramp(z, soft=14) * _ramp(inside)
    bent = np.abs(x) - 5 * size - 0.006 * (y - 5) ** 2, y, z - 0.1 * y
    _paint(image, FLUID, _ellipsoid(bent, (0, -4, 10), (6 * size, 30 * size, 9 * size)) * _ramp(inside - 4))
    _paint(image, FLUID, _ellipsoid(points, (0, -6, -10), (2.5 * size, 13, 9)))
    _paint(image, FLUID, _ellipsoid(points, (0, -44, -38), (8 * size, 5 * size, 7)))


def _add_specks(image: Array, points: Points, inside: Array, rng: np.random.Generator) -> None:
    """Calcified dots and short vessels, less than 4 mm wide and brighter than a lesion, in either class of study."""
    lengths = [0.0] * int(rng.integers(3, 7)) + list(rng.uniform(12, 28, int(rng.integers(1, 4))))
    for length in lengths:
        along = _direction(rng)
        offsets = [p - c for p, c in zip(points, _places(points, inside, rng, depth=4, count=1)[0], strict=True)]
        run = np.clip(sum(o * a for o, a in zip(offsets, along, strict=True)), 0, length)
        squared = sum((o - run * a) ** 2 for o, a in zip(offsets, along, strict=True))
        image += (
            rng.uniform(45, 65)
            * (1 if length else 2)
            * np.exp(squared / (-2 * rng.uniform(1.1, 1.6) ** 2))
            * _ramp(inside)
        )


def _places(points: Points, inside: Array, rng: np.random.Generator, *, depth: float, count: int) -> Array:
    """`count` random voxels' places [count, 3] that lie `depth` inside the brain, or the deepest if none does."""
    chosen = rng.choice(np.flatnonzero(inside >= min(depth, inside.max())), count)
    return np.stack([p.ravel()[chosen] for p in points], axis=1)


def _lesion_share(points: Points, inside: Array, rng: np.random.Generator, radii_mm: tuple[float, float]) -> Array:
    """How much of each voxel is lesion, in [0, 1]: an uneven ellipsoid, soft over about 3 mm at its edge."""
    radii = rng.uniform(*radii_mm) * rng.uniform(0.92, 1.08, 3)
    waves = 0.12 * _waves(points, rng, wavelength=(1.5 * radii.min(), 3 * radii.min()))
    for place in _places(points, inside, rng, depth=float(radii.max()), count=64):
        away = sum(((p - c) / np.float32(r)) ** 2 for p, c, r in zip(points, place, radii, strict=True))
        share = _ramp((1 - np.sqrt(away) - waves) * float(radii.mean()), soft=3)
        cut_off = any(share.take(end, axis).any() for axis in range(3) for end in (0, -1))
        if not cut_off and inside[share > 0].min() > CLEARANCE:
            return share
    raise InputError("The phantom's field of view has no room for the lesion: give more or larger voxels.")


def _waves(points: Points, rng: np.random.Generator, *, wavelength: tuple[float, float], count: int = 4) -> Array:
    """A smooth random field of about unit variance: plane waves of random directions."""
    total = np.zeros(points[0].shape, dtype=np.float32)
    for _ in range(count):
        direction = _direction(rng) * np.float32(2 * np.pi / rng.uniform(*wavelength))
        phase = sum(p * d for p, d in zip(points, direction, strict=True))
        total += np.cos(phase + np.float32(rng.uniform(0, 2 * np.pi)))
    return total * np.float32((2 / count) ** 0.5)


def _direction(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    direction = rng.standard_normal(3)
    return (direction / np.linalg.norm(direction)).astype(np.float32)


def _ellipsoid(points: Points, centre: tuple[float, ...], radii: tuple[float, ...], *, soft: float = 1.5) -> Array:
    radius = np.sqrt(sum(((p - c) / r) ** 2 for p, c, r in zip(points, centre, radii, strict=True)))
    return _ramp((1 - radius) * min(radii), soft=soft)


def _ramp(distance: Array, *, soft: float = 1.5) -> Array:
    """0 outside, 1 inside, linear over `soft` on either side of distance 0, as a voxel across an edge is."""
    return np.clip(0.5 + distance / (2 * soft), 0, 1)


def _paint(image: Array, value: Array | float, share: Array) -> None:
    image += share * (value - image)
