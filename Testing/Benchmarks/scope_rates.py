"""How often a plugin calls a study unlike those it has learnt from: held-out studies of the same kind, and others.

    python Testing/Benchmarks/scope_rates.py PLUGIN --data adrenalmnist3d_64.npz --images FOLDER [--json FILE]

PLUGIN has a scope (`anymc3d train` gives one, `anymc3d plugin learn-scope` adds one). Of the data's official test set
every study is tried; of other kinds: test studies that were changed, noise, balls, the images of FOLDER whole and cut
into pieces of 64 voxels a side, with their values moved to 0 to 255 as the set's are. Everything is drawn by --seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.identity import open_for
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.training.metrics import share_of
from AnyMC3DLib.volume import Volume, read_volume

SIDE, CHANGED, PIECES = 64, 40, 20

Array = npt.NDArray


def changed(array: Array, rng: np.random.Generator) -> dict[str, Array]:
    """A study of the set, changed in several ways, by their names."""
    values = array.astype(np.float32)
    return {
        "the set's own, axes exchanged": np.transpose(array, (1, 2, 0)),
        "the set's own, mirrored": array[::-1],
        "the set's own, inverted": 255 - array,
        "the set's own, blurred (3 voxels)": ndimage.gaussian_filter(values, 3),
        "the set's own, with noise (40 of 255)": values + rng.normal(0, 40, array.shape),
    }


def made(rng: np.random.Generator) -> Iterator[tuple[str, Volume]]:
    """Pictures of nothing."""
    squared = ((np.indices((SIDE,) * 3) - (SIDE - 1) / 2) ** 2).sum(axis=0)
    for _ in range(PIECES):
        yield "uniform noise", Volume(rng.uniform(0, 255, (SIDE,) * 3).astype(np.float32), np.eye(4))
        ball = squared < rng.uniform(8, 24) ** 2
        yield "balls", Volume(ball.astype(np.uint8) * 255, np.eye(4))


def real(folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, Volume]]:
    """Real images, as they are, at the set's size and values, and in pieces of its size."""
    for place in sorted(folder.glob("*.nii.gz")):
        volume = read_volume(place)
        low, high = np.percentile(volume.array, (1, 99))
        values = np.clip((volume.array.astype(np.float32) - low) / (high - low), 0, 1) * 255
        yield "real heads as they are", volume
        small = ndimage.zoom(values, [SIDE / n for n in values.shape], order=1)
        yield "real heads with the set's size and values", Volume(small, np.eye(4))
        for _ in range(PIECES):
            corner = [int(rng.integers(0, max(1, n - SIDE))) for n in values.shape]
            piece = values[tuple(slice(c, c + SIDE) for c in corner)]
            if piece.std() > 20:
                yield "pieces of real heads", Volume(np.ascontiguousarray(piece), np.eye(4))
        for level in (60, 120):
            shape = (small > level).astype(np.uint8) * 255
            yield "real heads as shapes (two values)", Volume(shape, np.eye(4))


def main() -> None:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plugin", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    engine = Classifier(open_for(read_spec(options.plugin)))
    name = engine.load(options.plugin)

    def beyond(volume: Volume) -> bool:
        try:
            return bool(engine.classify(Study({"image": volume}), plugins=[name], maps="none")[name].beyond)
        except InputError:
            return True

    counts = _count(options, beyond)
    rows = {kind: {"tried": len(said), "called unlike": sum(said)} for kind, said in counts.items()}
    for kind, row in rows.items():
        share = share_of(row["called unlike"], row["tried"])
        row["share"] = share.to_dict()
        print(f"| {kind} | {row['tried']} | {row['called unlike']} | {100 * share.value:.1f} % "
              f"({100 * share.low:.1f} to {100 * share.high:.1f}) |")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _count(options: argparse.Namespace, beyond: Callable[[Volume], bool]) -> dict[str, list[bool]]:
    rng = np.random.default_rng(options.seed)
    with np.load(options.data, allow_pickle=False) as data:
        test = data["test_images"]
    counts: dict[str, list[bool]] = {"the set's official test studies": [beyond(Volume(a, np.eye(4))) for a in test]}
    for array in test[:CHANGED]:
        for kind, other in changed(array, rng).items():
            counts.setdefault(kind, []).append(beyond(Volume(np.ascontiguousarray(other), np.eye(4))))
    for kind, volume in (*made(rng), *real(options.images, rng)):
        counts.setdefault(kind, []).append(beyond(volume))
    return counts


if __name__ == "__main__":
    main()
