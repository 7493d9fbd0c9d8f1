"""What the worker can compute on, in words to choose from. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from AnyMC3DLib.records import Record

AUTOMATIC = "auto"
GIGABYTE = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device(Record):
    """A device as the worker tells it; memory in bytes."""

    name: str
    model: str = ""
    memory: int = 0
    cores: int = 0

    def __str__(self) -> str:
        memory = f"{self.memory / GIGABYTE:.0f} GB" if self.memory else ""
        cores = f"{self.cores} cores" if self.cores else ""
        details = ", ".join(filter(None, [cores, memory]))
        name = self.model or self.name.upper()
        return f"{name} ({details})" if details else name


@dataclasses.dataclass(frozen=True)
class DeviceChoice:
    """A line of the selector: what the worker is told, and what the user reads."""

    value: str
    text: str


UNKNOWN = (DeviceChoice(AUTOMATIC, "Automatic"), DeviceChoice("cpu", "CPU"))


def choices_of(answer: Mapping[str, Any]) -> tuple[DeviceChoice, ...]:
    """The lines for the worker's answer to `devices`: the automatic choice, and what it means, first."""
    devices = [Device.from_dict(item, where="device") for item in answer["devices"]]
    chosen = next((device for device in devices if device.name.partition(":")[0] == answer["auto"]), None)
    automatic = DeviceChoice(AUTOMATIC, f"Automatic: {chosen}" if chosen else "Automatic")
    return (automatic, *(DeviceChoice(device.name, str(device)) for device in devices))
