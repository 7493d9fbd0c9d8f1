"""Damaged and hostile files of weights: refused in one sentence, nothing run, nothing left, little memory."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import FILES, Payload, pth
from stored import dinov2_folder

MOST_MEGABYTES = 300
MOST_SECONDS = 20
# Reads all of them in one process of its own, after a good one.
PROGRAM = """
import json, re, sys, time
from pathlib import Path
from AnyMC3DLib.backbone_import import import_backbone
from AnyMC3DLib.errors import BackboneError
good, *places = json.loads(sys.stdin.read())
def peak():
    # What getrusage tells begins with the memory of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
import_backbone(good, id="good")
before = peak()
answers = []
for place in places:
    started = time.monotonic()
    try:
        import_backbone(place, id="bad", overwrite=True)
        kind, message = "taken in", ""
    except Exception as error:
        kind, message = type(error).__name__, str(error)
    grown = (peak() - before) // 1024
    answers.append([kind, message, grown, time.monotonic() - started])
json.dump(answers, sys.stdout)
"""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of reading one file: the error, megabytes and seconds, and whether a payload was run."""

    kind: str
    message: str
    megabytes: int
    seconds: float
    was_run: bool


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dinov2_folder(tmp_path_factory.mktemp("hub") / "good")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def answers(good: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What the program says of every file."""
    root = tmp_path_factory.mktemp("hostile")
    places, markers = [str(good)], []
    for number, build in enumerate(FILES.values()):
        folder = Path(shutil.copytree(good, root / str(number) / "folder"))
        markers.append(root / str(number) / "was-run")
        places.append(str(build(folder, markers[-1])))
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(places), capture_output=True, text=True, check=False,
        env={**os.environ, "ANYMC3D_BACKBONES": str(store)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = zip(json.loads(result.stdout), markers, strict=True)
    return {what: Answer(*answer, marker.exists()) for what, (answer, marker) in zip(FILES, found, strict=True)}


def test_there_are_many_of_them() -> None:
    assert len(FILES) >= 50


@pytest.mark.parametrize("what", FILES)
def test_refused_in_one_sentence_and_not_run(what: str, answers: dict[str, Answer]) -> None:
    answer = answers[what]
    assert answer.kind == "BackboneError", answer.message
    assert answer.message.isprintable()
    assert answer.message.endswith(".")
    assert len(answer.message) < 700
    assert ". " not in answer.message.replace("... ", "")
    assert not any(word in answer.message for word in ("Traceback", "Error(", "torch.", "0x"))
    assert answer.seconds < MOST_SECONDS
    assert not answer.was_run


def test_all_of_them_together_take_little_memory(answers: dict[str, Answer]) -> None:
    most = max(answers.values(), key=lambda answer: answer.megabytes).megabytes
    first = next(what for what, answer in answers.items() if answer.megabytes == most)
    assert most < MOST_MEGABYTES, f"{most} MB, at {first}"


def test_nothing_of_them_is_left_beside_the_good_one(answers: dict[str, Answer], store: Path) -> None:
    assert answers
    assert [file.name for file in store.iterdir()] == ["good.safetensors"]


def test_the_payload_would_be_run_by_a_reader_that_trusts(good: Path, tmp_path: Path) -> None:
    import torch

    folder = Path(shutil.copytree(good, tmp_path / "folder"))
    pth(lambda _, marker: Payload(marker))(folder, tmp_path / "was-run")
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "was-run").exists()
