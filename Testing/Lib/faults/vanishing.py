"""Folders that may not be written, files that vanish while they are read, and two trainings in one folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hypothesis import strategies as st
from volumes import study

from AnyMC3DLib.manifest import read_manifest
from AnyMC3DLib.plugin import save_plugin
from AnyMC3DLib.report import write_report
from AnyMC3DLib.training.checkpoint import Checkpoint, CheckpointStore
from AnyMC3DLib.training.task import read_task
from AnyMC3DLib.volume import read_volume, write_volume

from .bench import (
    answer_of,
    answer_with_maps,
    good_answer,
    good_plugin,
    good_study,
    listing,
    plugin_tensors,
    scratch,
    told,
    watched,
)
from .fault import Fault, Outcome, refused
from .tables import spec

GROUP = "names and places"


@contextlib.contextmanager
def _no_new_files() -> Iterator[None]:
    """The system lets nobody make or replace a file; root could not be kept from it by permissions."""
    opened = os.open

    def refuse(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *rest, **named)

    with mock.patch("AnyMC3DLib.files.os.open", refuse):
        yield


OUTPUTS: dict[str, Callable[[Path], Any]] = {
    "heatmap.nrrd": lambda place: write_volume(place, good_study().image("image")),
    "plugin.safetensors": lambda place: save_plugin(place, spec(), [plugin_tensors()]),
    "report": lambda place: write_report(
        place, predictions={"Test": answer_with_maps()}, study=good_study(), title="x"
    ),
    "state": lambda place: CheckpointStore(place).save(Checkpoint({"a": torch.ones(2)}, {})),
}


def _read_only(kind: str, folder: Path) -> Outcome:
    """Where nothing may be written, a sentence says so and what was there stays."""
    answer_with_maps(), plugin_tensors()
    with watched(folder) as inside:
        place = inside / kind
        OUTPUTS[kind](place)
        before = listing(inside)
        with _no_new_files():
            _, error = told(lambda: OUTPUTS[kind](place))
        assert error is not None and listing(inside) == before
        return refused(error, names=("Permission denied",))


def _image() -> bytes:
    place = scratch() / "vanishing.nrrd"
    if not place.exists():
        write_volume(place, study())
    return place.read_bytes()


def _vanishing(kind: str, folder: Path) -> Outcome:
    """A file that goes between the look whether it is there and its reading."""
    readers: dict[str, tuple[Callable[[Path], Any], bytes]] = {
        "image.nrrd": (read_volume, _image()),
        "plugin.safetensors": (answer_of, good_plugin()),
        "task.json": (read_task, b"{}"),
        "table.csv": (lambda place: read_manifest(place, [spec()]), b"case,image\na,b\n"),
    }
    read, content = readers[kind]
    good_answer()
    with watched(folder) as inside:
        place = inside / kind
        place.write_bytes(content)
        looks = {name: getattr(Path, name) for name in ("is_file", "exists")}

        def gone(self: Path, name: str) -> bool:
            there = looks[name](self)
            if self == place:
                self.unlink(missing_ok=True)
            return there

        with contextlib.ExitStack() as stack:
            for name in looks:
                stack.enter_context(mock.patch.object(Path, name, lambda self, name=name: gone(self, name)))
            _, error = told(lambda: read(place))
        assert error is not None
        return refused(error)


def _two_trainings(order: list[int], folder: Path) -> Outcome:
    """Of two trainings that write into one folder in any order, one goes on and the other is told."""
    with watched(folder) as inside:
        stores = [CheckpointStore(inside / "state") for _ in range(2)]
        written: list[int] = []
        for number in order:
            _, error = told(lambda n=number: stores[n].save(Checkpoint({"a": torch.ones(2)}, {"by": n})))
            if error is None:
                written.append(number)
            else:
                refused(error, names=("Another training",))
        assert written == [order[0]] * order.count(order[0])
        newest = stores[0].newest()
        assert newest is not None and newest.facts["by"] == order[0]
    return Outcome.REFUSED if len(set(order)) > 1 else Outcome.WORKED


FAULTS = [
    Fault(group=GROUP, name="folders that may not be written", cases=st.sampled_from(sorted(OUTPUTS)), judge=_read_only,
          quick=4, full=4),
    Fault(group=GROUP, name="files that vanish while they are read", quick=4, full=4, judge=_vanishing,
          cases=st.sampled_from(["image.nrrd", "plugin.safetensors", "task.json", "table.csv"])),
    Fault(group=GROUP, name="two trainings in one folder", judge=_two_trainings, quick=5, full=60,
          cases=st.lists(st.integers(0, 1), min_size=1, max_size=5)),
]  # fmt: skip
