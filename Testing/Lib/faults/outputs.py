"""Everything that the library writes, as pairs of a writer and a reader: each can be written as version 0 or 1."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import plugin_spec, timm_model
from volumes import anatomy, straight

from AnyMC3DLib.architecture import Architecture
from AnyMC3DLib.backbone_store import InstalledBackbone, install, look_into
from AnyMC3DLib.benchmark.config import RowConfig
from AnyMC3DLib.benchmark.rows import ResultsTable, Row, TestPredictions
from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.ledger import CaseRecord, Ledger
from AnyMC3DLib.plugin import load_members, read_spec, save_plugin
from AnyMC3DLib.report import DATA, PAGE, TABLE, write_report
from AnyMC3DLib.training.checkpoint import Checkpoint, CheckpointStore
from AnyMC3DLib.training.dataset_file import read_cells, write_cells
from AnyMC3DLib.training.feature_cache import FeatureCache
from AnyMC3DLib.training.slice_cache import SliceCache
from AnyMC3DLib.volume import Volume, read_volume, write_volume

from .bench import answer_with_maps, backbone, good_answer, good_study, plugin_tensors

VERSIONS = (0, 1)
# Of the caches: one entry a version, since an entry is never replaced.
KEYS = ("0" * 64, "1" * 64)


@dataclasses.dataclass(frozen=True)
class Output:
    """How a thing is written into a folder as version 0 or 1, and which versions of it can be read there."""

    write: Callable[[Path, int], Any]
    read: Callable[[Path], set[int]]


def _heatmap(ending: str) -> Output:
    def write(folder: Path, version: int) -> None:
        write_volume(folder / f"heat{ending}", _volume(version))

    def read(folder: Path) -> set[int]:
        place = folder / f"heat{ending}"
        if not place.exists():
            return set()
        array = read_volume(place).array
        found = {version for version in VERSIONS if np.array_equal(array, _volume(version).array)}
        assert found, "the heatmap is of no version"
        return found

    return Output(write, read)


@functools.cache
def _volume(version: int) -> Volume:
    return Volume(anatomy(seed=version), straight())


def _state(version: int) -> Checkpoint:
    return Checkpoint({"a": torch.full((3000,), float(version))}, {"version": version})


def _newest(folder: Path) -> set[int]:
    found = CheckpointStore(folder / "state").newest()
    return set() if found is None else {found.facts["version"]}


def _slices(version: int) -> dict[str, np.ndarray]:
    return {name: np.full((4, 1, 30, 30), version + n, np.float16) for n, name in enumerate(("axial", "coronal"))}


def _cut(folder: Path, version: int) -> None:
    found = SliceCache(folder / "slices", max_bytes=1 << 20).get(KEYS[version], lambda: _slices(version))
    assert all(np.array_equal(found[name], array) for name, array in _slices(version).items())


def _kept_slices(folder: Path) -> set[int]:
    found = set()
    for version in VERSIONS:
        made: list[int] = []

        def make(version: int = version, made: list[int] = made) -> dict[str, np.ndarray]:
            made.append(version)
            return _slices(version)

        # A cache without room: what is not there is not written now.
        views = SliceCache(folder / "slices", max_bytes=0).get(KEYS[version], make)
        assert all(np.array_equal(views[name], array) for name, array in _slices(version).items())
        found |= set() if made else {version}
    return found


def _features(version: int) -> dict[str, dict[str, torch.Tensor]]:
    return {f"case {version}": {"axial": torch.full((40, 30), float(version))}}


def _kept_features(folder: Path) -> set[int]:
    found = FeatureCache(folder / "features").find([f"case {version}" for version in VERSIONS])
    for version in VERSIONS:
        for name, views in found.items():
            if name == f"case {version}":
                assert views["axial"].equal(_features(version)[name]["axial"])
    return {version for version in VERSIONS if f"case {version}" in found}


def _plugin(folder: Path, version: int) -> None:
    tensors = {name: tensor + version for name, tensor in plugin_tensors().items()}
    save_plugin(folder / "plugin.safetensors", plugin_spec(backbone(), version=str(version)), [tensors])


def _read_plugin(folder: Path) -> set[int]:
    place = folder / "plugin.safetensors"
    if not place.exists():
        return set()
    spec = read_spec(place)
    (tensors,) = load_members(place, spec)
    assert all(tensors[name].equal(tensor + int(spec.version)) for name, tensor in plugin_tensors().items())
    return {int(spec.version)}


def _report(folder: Path, version: int) -> None:
    answer = answer_with_maps()
    answer = dataclasses.replace(answer, spec=dataclasses.replace(answer.spec, version=f"version-{version}"))
    write_report(folder / "report", predictions={"Test": answer}, study=good_study(), title=f"version-{version}")


def _read_report(folder: Path) -> set[int]:
    ends = {PAGE: "</html>", DATA: "}", TABLE: ""}
    texts = [(folder / "report" / name, end) for name, end in ends.items() if (folder / "report" / name).exists()]
    for place, end in texts:
        assert place.read_text(encoding="utf-8").rstrip().endswith(end), f"{place.name} is cut"
    # The page comes last, and stands for the report.
    page = folder / "report" / PAGE
    return {v for v in VERSIONS if page.exists() and f"version-{v}" in page.read_text(encoding="utf-8")}


def _ledger(folder: Path) -> Ledger:
    return Ledger(folder / "cohort", run="r", plugins={"Test": plugin_spec(backbone())}, cases=["a"])


def _case(folder: Path, version: int) -> None:
    record = CaseRecord(
        case="a", status="done", run="r", inputs=str(version), process="1",
        predictions={"Test": good_answer().to_dict()},
    )  # fmt: skip
    _ledger(folder).write("a", record.to_text())
    _ledger(folder).write_tables()


def _read_case(folder: Path) -> set[int]:
    return {version for version in VERSIONS if _ledger(folder).is_done("a", str(version))}


CONFIG = RowConfig(dataset="Balls", method="anymc3d")


def _row(folder: Path, version: int) -> None:
    many = 50
    said = TestPredictions(
        tuple(f"{version} {n}" for n in range(many)), ("p",) * many, np.zeros(many, np.int64), np.full((many, 2), 0.5)
    )  # fmt: skip
    row = Row(key=CONFIG.key, config=CONFIG, status="done", minutes=float(version))
    ResultsTable(folder / "results").add(row, said)


def _read_row(folder: Path) -> set[int]:
    table = ResultsTable(folder / "results")
    row = table.row(CONFIG.key)
    if row is None:
        return set()
    assert len(table.predictions(CONFIG.key).ids) == 50
    assert [each.key for each in table.rows()] == [CONFIG.key]
    return {int(row.minutes)}


@functools.cache
def _model(version: int) -> torch.nn.Module:
    return timm_model("test_resnet", seed=version)


def _installed(folder: Path, version: int) -> None:
    record = InstalledBackbone(
        id="some",
        architecture=Architecture(timm="test_resnet", family="ResNet"),
        digest=f"sha256:{version}",
        title=str(version),
    )
    install(_model(version), record, folder / "backbones", overwrite=True)


def _read_installed(folder: Path) -> set[int]:
    from safetensors.torch import load_file

    listed = look_into(folder / "backbones")
    assert not listed.problems, listed.problems
    assert set(listed.backbones) <= {"some"}
    for record in listed.backbones.values():
        tensors = load_file(folder / "backbones" / "some.safetensors")
        wanted = _model(int(record.title)).state_dict()
        assert all(tensors[name].equal(tensor) for name, tensor in wanted.items())
        return {int(record.title)}
    return set()


def _table(folder: Path, version: int) -> None:
    rows = [{"case": f"{n}", "label": str(version)} for n in range(50)]
    write_cells(folder / "cases.csv", ["case", "label"], rows)


def _read_table(folder: Path) -> set[int]:
    if not (folder / "cases.csv").exists():
        return set()
    rows = [row for _, row in read_cells(folder / "cases.csv").rows]
    assert len(rows) == 50 and len({row["label"] for row in rows}) == 1
    return {int(rows[0]["label"])}


OUTPUTS: dict[str, Output] = {
    "a heatmap as NRRD": _heatmap(".nrrd"),
    "a heatmap as NIfTI": _heatmap(".nii.gz"),
    "a heatmap as MetaImage": _heatmap(".mha"),
    "a checkpoint": Output(lambda folder, v: CheckpointStore(folder / "state").save(_state(v)), _newest),
    "an entry of the slice cache": Output(_cut, _kept_slices),
    "an entry of the feature cache": Output(
        lambda f, v: FeatureCache(f / "features").keep(_features(v)), _kept_features
    ),
    "a plugin": Output(_plugin, _read_plugin),
    "a report": Output(_report, _read_report),
    "a cohort's record and tables": Output(_case, _read_case),
    "a benchmark's row": Output(_row, _read_row),
    "an imported backbone": Output(_installed, _read_installed),
    "a table of cases": Output(_table, _read_table),
}


class _Sentences(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextlib.contextmanager
def sentences() -> Iterator[list[str]]:
    """What is told meanwhile: the error that ended the block, and the log's warnings."""
    handler, room = _Sentences(), logging.getLogger("AnyMC3DLib")
    room.addHandler(handler)
    try:
        yield handler.texts
    finally:
        room.removeHandler(handler)


def write_and_tell(name: str, folder: Path, version: int) -> list[str]:
    """Write an output, and return the sentences that a person is told of it: none where all went well.

    A cache tells in the log that it keeps nothing; raises what is no error for a person.
    """

    with sentences() as texts:
        try:
            OUTPUTS[name].write(folder, version)
        except AnyMC3DError as error:
            return [str(error)]
        return list(texts)


def check_after(name: str, folder: Path, *, before: set[int], told: list[str]) -> None:
    """Fail unless the new version is there, or was told to be not and the old one is; nothing half may be left."""
    left = [path.name for path in folder.rglob(".*")]
    assert not left, f"left behind: {left}"
    found = OUTPUTS[name].read(folder)
    if told:
        assert found >= before, f"the old one is gone: {found}"
        for sentence in told:
            assert sentence.endswith((".", "?")) and "\n" not in sentence, sentence
    else:
        assert 1 in found, "it is said to be written, and is not"


def told_of_disk(sentence: str) -> bool:
    """Whether a sentence says that the disk is full, or takes no more."""
    return any(
        word in sentence
        for word in ("No space left", "File too large", "the space on its disk", "are needed: free some space")
    )
