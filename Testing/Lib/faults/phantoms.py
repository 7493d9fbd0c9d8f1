"""Small studies with a known answer, and how they are drawn: the twin is the clean one, upright and in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from volumes import anatomy, rotation, stored, straight, tilted

from AnyMC3DLib.volume import Volume

LEAST = 5  # slices from which the middle ones are taken, so that even a single slice shows the body
UPRIGHT = (0, 0, 0)
ORIGIN = (-31.0, 17.0, -8.013)  # so that no slice lies at half a tenth of a millimetre


@dataclasses.dataclass(frozen=True)
class Body:
    """A body in air, about -900 to 500, `grid` (k, j, i) voxels of `spacing` (i, j, k) mm under a header.

    `turn` are degrees about R, A and S; `lean` degrees by which the slices' axis leans. `order` and `flips` say how
    its array is stored, as `volumes.stored` takes them.
    """

    seed: int = 0
    grid: tuple[int, int, int] = (6, 16, 18)
    spacing: tuple[float, float, float] = (0.9, 1.3, 2.2)
    turn: tuple[float, float, float] = UPRIGHT
    lean: float = 0.0
    order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def twin(self, dtype: npt.DTypeLike = np.int16) -> Volume:
        """The body as it is: i, j and k along R, A and S, but for turn and lean."""
        whole = anatomy([max(n, LEAST) for n in self.grid], self.seed)
        middle = tuple(
            slice((full - n) // 2, (full - n) // 2 + n) for full, n in zip(whole.shape, self.grid, strict=True)
        )
        values = np.ascontiguousarray(whole[middle])
        dtype = np.dtype(dtype)
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            if info.max < 1000:  # 8 bits: the same picture in coarser steps
                values = values / 8
            values = np.rint(values + (1000 if info.min == 0 else 0) / (8 if info.max < 1000 else 1))
        return Volume(values.astype(dtype), self.affine(), name="the twin")

    def affine(self) -> npt.NDArray[np.float64]:
        """From (i, j, k) of the twin to RAS."""
        upright = straight(self.spacing, ORIGIN)
        return rotation(*self.turn) @ (tilted(upright, self.lean) if self.lean else upright)

    def stored(self, dtype: npt.DTypeLike = np.int16) -> Volume:
        """The same body in the order of axes in which it is stored."""
        return stored(self.twin(dtype), order=self.order, flips=self.flips)


degrees = st.integers(-40, 40)
turns = st.one_of(
    st.just(UPRIGHT),
    st.tuples(degrees, degrees, degrees),
    st.sampled_from([(45, 0, 0), (0, 45, 0), (0, 0, -45), (45, 45, 45), (0, 135, 0), (0, 0, 225)]),
)
orders = st.permutations(range(3)).map(tuple)
flips = st.tuples(st.booleans(), st.booleans(), st.booleans())
grids = st.tuples(st.integers(4, 8), st.integers(9, 20), st.integers(9, 24))
spacings = st.tuples(*[st.sampled_from([0.4, 0.625, 0.9, 1.0, 1.3, 2.2, 3.0, 5.0])] * 3)
leans = st.integers(2, 30).flatmap(lambda angle: st.sampled_from([angle, -angle]))


def bodies(**fields: st.SearchStrategy) -> st.SearchStrategy[Body]:
    """Bodies of any order, direction and turn, with other `fields` where given."""
    drawn = {
        "seed": st.integers(0, 999), "grid": grids, "spacing": spacings, "turn": turns, "order": orders, "flips": flips
    }  # fmt: skip
    return st.builds(Body, **{**drawn, **fields})


def upright_bodies(**fields: st.SearchStrategy) -> st.SearchStrategy[Body]:
    """Bodies whose array lies as the twin's, as the slices of a series do."""
    as_twin = {"order": st.just((0, 1, 2)), "flips": st.just((False, False, False))}
    return bodies(**{**as_twin, **fields})
