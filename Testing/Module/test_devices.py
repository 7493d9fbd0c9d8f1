"""What the worker can compute on, as a person reads it."""

from __future__ import annotations

from typing import Any

import pytest
from AnyMC3DUI.devices import UNKNOWN, choices_of

from AnyMC3DLib.errors import InputError

CPU = {"name": "cpu", "cores": 8, "memory": 32 << 30}


def lines(auto: str, *devices: dict[str, Any]) -> list[tuple[str, str]]:
    return [(choice.value, choice.text) for choice in choices_of({"devices": list(devices), "auto": auto})]


def test_a_cuda_card_is_told_with_its_name_and_memory() -> None:
    card = {"name": "cuda:0", "model": "NVIDIA RTX A4000", "memory": 16 << 30}
    assert lines("cuda", card, CPU) == [
        ("auto", "Automatic: NVIDIA RTX A4000 (16 GB)"),
        ("cuda:0", "NVIDIA RTX A4000 (16 GB)"),
        ("cpu", "CPU (8 cores, 32 GB)"),
    ]


def test_an_apple_gpu_and_the_cpu_are_told() -> None:
    assert lines("mps", {"name": "mps", "model": "Apple GPU", "memory": 12 << 30}, CPU)[:2] == [
        ("auto", "Automatic: Apple GPU (12 GB)"),
        ("mps", "Apple GPU (12 GB)"),
    ]
    assert lines("cpu", CPU)[0] == ("auto", "Automatic: CPU (8 cores, 32 GB)")


def test_unknown_figures_are_left_out() -> None:
    assert lines("cpu", {"name": "cpu"}) == [("auto", "Automatic: CPU"), ("cpu", "CPU")]
    assert lines("elsewhere", {"name": "cpu"})[0] == ("auto", "Automatic")


def test_before_the_worker_has_answered_there_is_a_choice() -> None:
    assert [choice.value for choice in UNKNOWN] == ["auto", "cpu"]


def test_an_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError):
        lines("cpu", {"model": "nameless"})
