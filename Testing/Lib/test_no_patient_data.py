"""Nothing of a person is in any file, name, log or answer, whatever the DICOM headers and the names of files hold.

Promised is this: what is written or logged names neither tags nor image files; a cohort's and a run's results name
cases by the `case` of the user's table. Where a table itself is made from a folder, its cases are called by their
files.
An error on the user's own terminal, or in the answer to a request, may name the file that he gave.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, view, write_plugin
from planted import FOLDER, found_below, found_in, mark_of, marks, write_marked_series
from shell import anymc3d, findable_backbone

from AnyMC3DLib.commands import train as train_command
from AnyMC3DLib.spec import BackboneRef, IntensitySpec
from AnyMC3DLib.training import metrics
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.worker import LOG_LEVELS, LogNotes
from AnyMC3DLib.worker_jobs import Jobs
from AnyMC3DLib.worker_server import Server
from AnyMC3DLib.workspace import Workspace

SHAPE, SPLITS, DAMAGED = (6, 24, 24), ("train", "train", "train", "val", "test"), 10
NAMED_BY_FILE = ("folder", "file")

_opened: list[str] = []
_listening = [False]


def _hear(event: str, arguments: tuple) -> None:
    if _listening[0] and event in ("open", "os.mkdir", "os.rename", "tempfile.mkstemp", "tempfile.mkdtemp"):
        written = event != "open" or (isinstance(arguments[2], int) and arguments[2] & 3)
        _opened.extend(str(part) for part in arguments if written and isinstance(part, (str, bytes, Path)))


@dataclasses.dataclass(frozen=True)
class Archive:
    """Series of ten patients and a damaged one, a plugin and what it needs."""

    folder: Path
    plugin: Path
    weights: Path
    task: Path

    def series(self, number: int) -> Path:
        return self.folder / f"{FOLDER}-{number}"

    @property
    def computing(self) -> list[str | Path]:
        return ["--weights", self.weights, "--device", "cpu"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("archive")
    random = np.random.default_rng(0)
    for number in range(DAMAGED + 1):
        array = random.integers(0, 90, SHAPE)
        array[:, 6:14, 6:14] += 120 * (number % 2)
        write_marked_series(folder / f"{FOLDER}-{number}", array, number=number + 1)
    for file in (folder / f"{FOLDER}-{DAMAGED}").iterdir():
        file.write_bytes(file.read_bytes()[:-200])
    backbone, weights = findable_backbone(folder)
    window = IntensitySpec(kind="window", windows=((127.5, 255.0),))
    views = (view(backbone, size=(32, 32), intensity=window),)
    spec = dataclasses.replace(plugin_spec(backbone, views=views), backbone=BackboneRef(id=backbone.id))
    recipe = TrainingSpec(epochs=1, warm_up_epochs=2, batch=3)
    (folder / "task.json").write_text(json.dumps(TaskSpec(plugin=spec, training=recipe).to_dict()))
    plugin = write_plugin(folder / "plugin.safetensors", backbone, views=views)
    return Archive(folder, plugin, weights, folder / "task.json")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where all output goes, temporary files too; afterwards no name that was ever opened there has a mark."""
    if not _opened:
        sys.addaudithook(_hear)
        _opened.append("")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(train_command, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(metrics, "RESAMPLES", 30)
    _opened[1:], _listening[0] = [], True
    yield tmp_path
    _listening[0] = False
    ours = [name for name in _opened if f"{tmp_path}/" in name]
    assert ours, "no file was seen to be opened"
    assert {name: found for name in ours if (found := found_in(name.encode(errors="replace")))} == {}


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Filled at the end with what came on standard output, standard error and the log; no mark may be in it."""
    texts: list[str] = []
    yield texts
    told = capfd.readouterr()
    for text in (told.out, told.err, caplog.text, *texts):
        assert found_in(text.encode(errors="replace")) == []


def test_the_marks_are_in_the_files_and_would_be_found(archive: Archive, tmp_path: Path) -> None:
    first = next(archive.series(0).iterdir())
    assert set(found_in(first.read_bytes())) == set(marks()) - set(NAMED_BY_FILE)
    assert set(found_below([archive.folder])[f"{FOLDER}-0/{first.name}"]) == set(marks())
    np.savez_compressed(tmp_path / "packed.npz", text=np.array(mark_of("PatientName")))
    assert "PatientName" in found_below([tmp_path])["packed.npz"]


def test_the_answer_to_one_study_its_report_and_its_heatmaps_name_nobody(
    archive: Archive, written: Path, said: list[str]
) -> None:
    for ending in (".nrrd", ".nii.gz", ".mha"):
        assert anymc3d(
            "classify", archive.series(1), "--plugin", archive.plugin, *archive.computing, "--json",
            "--report", written / "report", "--heatmap", written / f"heat{ending}", "--heatmap-class", "lesion",
        ) == 0  # fmt: skip
    assert len(list(written.glob("heat.*"))) == 3
    assert found_below([written]) == {}


def test_a_cohort_names_cases_as_its_table_does_and_nothing_else(
    archive: Archive, written: Path, said: list[str]
) -> None:
    table = archive.folder / "cohort.csv"
    table.write_text("case,image\n" + "".join(f"c{n},{archive.series(n).name}\n" for n in (0, 1, DAMAGED)))
    arguments = ["--manifest", table, "--plugin", archive.plugin, "--out", written / "out", "--heatmaps"]
    assert anymc3d("classify", *arguments, *archive.computing) == 1
    assert "c10" in (written / "out" / "failures.csv").read_text()
    assert len(list((written / "out" / "cases").iterdir())) == 3
    assert found_below([written]) == {}


def test_a_training_its_plugin_its_figures_and_its_caches_name_nobody(
    archive: Archive, written: Path, said: list[str]
) -> None:
    table = archive.folder / "cases.csv"
    lines = [
        f"c{n},p{n},{SPLITS[n // 2 % 5]},{('normal', 'lesion')[n % 2]},{archive.series(n).name}\n" for n in range(10)
    ]
    damaged = f"c{DAMAGED},p{DAMAGED},train,normal,{archive.series(DAMAGED).name}\n"
    table.write_text("case,patient,split,label,image\n" + "".join(lines) + damaged)
    run = written / "run"
    assert anymc3d(
        "train", "--task", archive.task, "--data", table, "--run", run, "--test-splits", "test", "--cache",
        written / "cache", "--allow-unreadable", "1", "--backbone", "timm:test_vit", *archive.computing,
    ) == 0  # fmt: skip
    assert anymc3d(
        "evaluate", "--plugin", run / "plugin.safetensors", "--data", table, "--predictions", written / "p.csv",
        "--json", *archive.computing,
    ) == 0  # fmt: skip
    assert anymc3d("plugin", "show", run / "plugin.safetensors", "--json") == 0
    assert (run / "report.html").exists() and list((written / "cache").iterdir())
    assert found_below([written]) == {}


def test_a_table_that_is_made_of_folders_tells_their_names_and_no_tag(
    written: Path, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path_factory.mktemp("classes")
    for number, label in ((0, "normal"), (1, "lesion")):
        write_marked_series(root / label / f"{FOLDER}-{number}", np.full(SHAPE, number), number=number + 1)
    assert anymc3d("manifest", "make", "folders", root, "--out", written / "cases.csv") == 0
    assert anymc3d("manifest", "check", written / "cases.csv") in (0, 1)
    assert FOLDER in (written / "cases.csv").read_text()
    assert found_below([written], but=NAMED_BY_FILE) == {}
    told = capfd.readouterr()
    assert found_in((told.out + told.err).encode(), but=NAMED_BY_FILE) == []


def test_the_worker_its_log_and_its_folder_name_nobody(
    archive: Archive, written: Path, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[bytes] = []
    workspace = Workspace(written)
    server = Server(lines.append, workspace, Jobs, leave=lambda _: None)
    for name, level in LOG_LEVELS.items():
        caplog.set_level(level, logger=name)
    log = LogNotes(_Lines(said))
    logging.getLogger().addHandler(log)
    try:
        for method, params in _requests(archive):
            if method == "render":
                params["job"] = json.loads(lines[-1])["result"]["job"]
            server.take(_request(len(lines), method, params))
            if server._queue:
                server._run(server._queue.popleft())
            assert found_below([written]) == {}, method
    finally:
        logging.getLogger().removeHandler(log)
    answers = [json.loads(line) for line in lines if b'"result"' in line or b'"error"' in line]
    assert [("error" in answer) for answer in answers] == [False] * 5 + [True]
    for answer in answers:
        assert found_in(json.dumps(answer).encode(), but=NAMED_BY_FILE if "error" in answer else ()) == []
    notes = [line for line in lines if b'"progress"' in line]
    assert notes and all(found_in(line) == [] for line in notes)


class _Lines:
    """What the worker's log writes to, as a list of texts."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def send(self, line: bytes) -> None:
        self._texts.append(line.decode())


def _request(number: int, method: str, params: dict) -> object:
    from AnyMC3DLib.protocol import Request

    return Request(number, method, params)


def _requests(archive: Archive) -> list[tuple[str, dict]]:
    good, bad = ({"image": {"file": str(archive.series(n))}} for n in (1, DAMAGED))
    identity = np.eye(4).tolist()
    return [
        ("hello", {}),
        ("load", {"path": str(archive.plugin), "weights": str(archive.weights), "device": "cpu"}),
        ("preview", {"images": good, "view": "axial", "plugin": "Test"}),
        ("classify", {"images": good}),
        ("render", {"plugin": "Test", "class": "lesion", "shape": [4, 8, 8], "ijk_to_ras": identity}),
        ("classify", {"images": bad}),
    ]
