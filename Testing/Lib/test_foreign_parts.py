"""Of the networks that a training program saved side by side, none is taken in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint, read_checkpoint

State = dict[str, Tensor]


def network(value: float, prefix: str = "") -> State:
    return {f"{prefix}layer.{n}.weight": torch.full((4, 4), value + n) for n in range(3)}


def read(state: object, folder: Path, *, part: str = "") -> Checkpoint:
    torch.save(state, folder / "training.pth")
    return read_checkpoint(folder / "training.pth", part=part)


@pytest.mark.parametrize(
    ("state", "taken", "words"),
    [
        ({"state_dict": network(0), "state_dict_ema": network(9), "epoch": 3}, 9, "'state_dict_ema' was .*as timm"),
        ({"student": network(0, "module."), "teacher": network(9, "backbone.")}, 9, "'teacher' was .*as DINO's"),
    ],
)
def test_what_the_program_itself_takes_is_taken_and_told(
    state: dict[str, object], taken: float, words: str, tmp_path: Path
) -> None:
    found = read(state, tmp_path)
    assert next(iter(found.tensors.values()))[0, 0] == taken
    (note,) = found.notes
    assert re.search(words, note)


AMBIGUOUS = [
    {"model": network(0), "model_ema": network(9)},
    {"model": network(0), "model_ema": network(8), "teacher": network(9)},
    {"state_dict": network(0), "averaged": network(9)},
    {"model": network(0), "net": network(9)},
    {"checkpoint": 1, "model": {"state_dict": network(0), "state_dict_swa": network(9)}},
]


@pytest.mark.parametrize("state", AMBIGUOUS)
def test_networks_of_which_nobody_says_which_are_refused_by_name(state: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"holds the weights of \d networks, .* and .*: say which"):
        read(state, tmp_path)


@pytest.mark.parametrize("part", ["model", "model_ema"])
def test_the_part_that_is_named_is_read(part: str, tmp_path: Path) -> None:
    state = {"model": network(0), "model_ema": network(9)}
    found = read(state, tmp_path, part=part)
    assert torch.equal(found.tensors["layer.0.weight"], state[part]["layer.0.weight"])
    assert found.notes == ()
    with pytest.raises(BackboneError, match="no part 'teacher'"):
        read(state, tmp_path, part="teacher")


@pytest.mark.parametrize("name", ["model", "state_dict_ema", "model_ema", "teacher"])
def test_a_network_alone_needs_no_word(name: str, tmp_path: Path) -> None:
    optimiser = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    found = read({name: network(9), "optimizer": optimiser, "loss": {"center": torch.ones(2)}}, tmp_path)
    assert (len(found.tensors), found.notes) == (3, ())


def test_a_state_that_holds_itself_many_times_over_is_refused_soon(tmp_path: Path) -> None:
    state: dict[str, object] = {"odd": 1}
    for _ in range(60):
        state = {"model": state, "teacher": state, "net": state, "module": state}
    with pytest.raises(BackboneError):
        read(state, tmp_path)
