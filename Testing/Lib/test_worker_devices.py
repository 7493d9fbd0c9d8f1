"""What the worker tells of the devices that it can compute on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from AnyMC3DLib.control import Control
from AnyMC3DLib.messages import Devices
from AnyMC3DLib.worker_jobs import Jobs
from AnyMC3DLib.workspace import Workspace


def answer(folder: Path) -> dict[str, Any]:
    return Jobs(Workspace(folder)).run(Devices(), Control(), lambda _: None)


@pytest.fixture
def nothing_but_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("nothing_but_cpu")
def test_the_cpu_is_always_there(tmp_path: Path) -> None:
    told = answer(tmp_path)
    assert told["auto"] == "cpu"
    (cpu,) = told["devices"]
    assert cpu["name"] == "cpu" and cpu["cores"] >= 1 and cpu["memory"] == psutil.virtual_memory().total


@pytest.mark.usefixtures("nothing_but_cpu")
def test_cuda_cards_are_told_by_name_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [SimpleNamespace(name=f"Card {n}", total_memory=n << 30) for n in (8, 4)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    told = answer(tmp_path)
    assert told["auto"] == "cuda"
    assert told["devices"][:2] == [
        {"name": "cuda:0", "model": "Card 8", "memory": 8 << 30},
        {"name": "cuda:1", "model": "Card 4", "memory": 4 << 30},
    ]
    assert told["devices"][2]["name"] == "cpu"


@pytest.mark.usefixtures("nothing_but_cpu")
def test_apples_gpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 << 30)
    told = answer(tmp_path)
    assert told["auto"] == "mps"
    assert told["devices"][0] == {"name": "mps", "model": "Apple GPU", "memory": 12 << 30}
