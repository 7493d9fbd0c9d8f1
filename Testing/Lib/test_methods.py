"""The four methods of training one task."""

from __future__ import annotations

import dataclasses

import pytest

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.spec import LoRASpec
from AnyMC3DLib.training.methods import with_method
from AnyMC3DLib.training.task import read_task


def test_a_method_changes_what_it_compares_and_nothing_else() -> None:
    task = read_task("AdrenalMNIST3D")
    assert with_method(task, "lora") == task
    frozen, probe, full = (with_method(task, method) for method in ("frozen", "probe", "full"))
    for changed in (frozen, probe, full):
        assert changed.plugin.lora.rank == 0
        assert changed.plugin.views == task.plugin.views
        assert changed.plugin.head == task.plugin.head
    assert frozen.plugin.fusion == full.plugin.fusion == task.plugin.fusion
    assert (probe.plugin.fusion.kind, probe.plugin.fusion.views) == ("mean", "concat")
    assert [t.training.method for t in (frozen, probe, full)] == ["frozen", "frozen", "full"]
    assert dataclasses.replace(full.training, method="lora") == task.training


def test_adapters_of_rank_0_are_no_method() -> None:
    task = read_task("AdrenalMNIST3D")
    without = dataclasses.replace(task, plugin=dataclasses.replace(task.plugin, lora=LoRASpec(rank=0)))
    with pytest.raises(InputError, match="rank 0, which train nothing"):
        with_method(without, "lora")
    with pytest.raises(InputError, match="no method 'prompt'"):
        with_method(task, "prompt")
