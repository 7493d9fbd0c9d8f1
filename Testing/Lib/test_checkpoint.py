"""Where a training stands, on disk: whole, checked, the last two kept."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.training import checkpoint as room
from AnyMC3DLib.training.checkpoint import (
    Checkpoint,
    CheckpointStore,
    optimiser_tensors,
    restore_optimiser,
)


def state(number: int) -> Checkpoint:
    tensors = {"weights/a": torch.full((3,), float(number)), "empty": torch.zeros(0)}
    return Checkpoint(tensors, {"epoch": number, "losses": [0.5, 1e-3], "best": None})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "state", every_s=0.0)


def test_what_was_written_is_read_again(store: CheckpointStore) -> None:
    assert store.newest() is None
    store.save(state(1))
    found = store.newest()
    assert found.facts == state(1).facts
    assert torch.equal(found.part("weights")["a"], torch.ones(3)) and list(found.part("weights")) == ["a"]


def test_the_last_two_are_kept_and_the_newest_is_used(store: CheckpointStore) -> None:
    for number in range(5):
        store.save(state(number))
    assert len(list(store.folder.iterdir())) == 2
    assert store.newest().facts["epoch"] == 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_one_is_left_aside_with_a_warning(
    store: CheckpointStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(state(1))
    store.save(state(2))
    newest = sorted(store.folder.iterdir())[-1]
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[-3] ^= 1
    newest.write_bytes({"cut": content[:-4], "flipped": content, "empty": b"", "other": b"no such file"}[damage])
    with caplog.at_level(logging.WARNING):
        assert store.newest().facts["epoch"] == 1
    assert f"'{newest.name}' is damaged" in caplog.text and str(store.folder) not in caplog.text
    store.save(state(3))
    assert store.newest().facts["epoch"] == 3


def test_a_disk_that_is_full_leaves_those_before(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(state(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "save_file", full)
    with pytest.raises(InputError, match="No space left on device"):
        store.save(state(2))
    assert store.newest().facts["epoch"] == 1 and len(list(store.folder.iterdir())) == 1


def test_one_is_due_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    store = CheckpointStore(tmp_path, every_s=60)
    assert not store.due()
    now[0] += 60
    assert store.due()
    store.save(state(1))
    assert not store.due()


def test_an_optimiser_goes_on_as_if_it_had_not_stopped() -> None:
    def begin() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 2)
        groups = [{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias], "lr": 0.01}]
        return layer, torch.optim.AdamW(groups)

    def step(layer: torch.nn.Linear, optimiser: torch.optim.Optimizer, number: int) -> None:
        optimiser.zero_grad()
        layer(torch.full((3, 4), float(number))).square().sum().backward()
        optimiser.step()

    whole, whole_optimiser = begin()
    for number in range(6):
        step(whole, whole_optimiser, number)
    first, first_optimiser = begin()
    for number in range(3):
        step(first, first_optimiser, number)
    second, second_optimiser = begin()
    second.load_state_dict(first.state_dict())
    restore_optimiser(second_optimiser, {k: v.clone() for k, v in optimiser_tensors(first_optimiser).items()})
    for number in range(3, 6):
        step(second, second_optimiser, number)
    assert torch.equal(whole.weight, second.weight) and torch.equal(whole.bias, second.bias)
