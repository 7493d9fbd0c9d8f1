"""Slices come batch by batch, also after a copy ahead for which there was no room."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from AnyMC3DLib.feeding import Feeder


def test_batches_are_the_slices_in_order() -> None:
    array = np.arange(5 * 4, dtype=np.float32).reshape(5, 1, 2, 2)
    feeder = Feeder(array, torch.device("cpu"))
    feeder.copy_ahead(2, 2)
    found = torch.cat([feeder.batch(0, 2), feeder.batch(2, 3)])
    assert torch.equal(found, torch.from_numpy(array))


def test_a_copy_for_which_there_was_no_room_is_tried_again_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy and its stream are stood in for: there is no GPU here."""
    array = np.arange(8 * 4, dtype=np.float32).reshape(8, 1, 2, 2)
    tried: list[tuple[int, int]] = []

    def copy(self: Feeder, first: int, count: int) -> Tensor:
        tried.append((first, count))
        if count > 2:
            raise torch.OutOfMemoryError("out of memory")
        return torch.from_numpy(array[first : first + count])

    class Computing:
        def wait_stream(self, _: object) -> None:
            """The copy is done already."""

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Computing())
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    monkeypatch.setattr(Feeder, "_copy", copy)
    feeder = Feeder(array, torch.device("cuda"))
    with pytest.raises(torch.OutOfMemoryError):
        feeder.batch(0, 4)
    assert torch.equal(feeder.batch(0, 2), torch.from_numpy(array[:2]))
    feeder.copy_ahead(2, 2)
    # Fewer than were copied ahead are a part of them; more are copied anew.
    assert torch.equal(feeder.batch(2, 1), torch.from_numpy(array[2:3]))
    feeder.copy_ahead(3, 1)
    assert torch.equal(feeder.batch(3, 2), torch.from_numpy(array[3:5]))
    assert tried == [(0, 4), (0, 2), (2, 2), (3, 1), (3, 2)]
