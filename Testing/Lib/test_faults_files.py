"""Generated faults of files, folders, names and messages: each case works as its clean twin, or is refused."""

from __future__ import annotations

import os
import zlib

import pytest
from faults import descriptions, messages, names, plugin_bytes, tables, vanishing, weights
from faults.fault import Fault, tally

ROOMS = [plugin_bytes, weights, tables, descriptions, names, vanishing, messages]
if os.name != "nt":
    from faults import disk

    ROOMS.append(disk)
FAULTS = [fault for room in ROOMS for fault in room.FAULTS]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.group}: {fault.name}")
def test_no_case_goes_wrong(fault: Fault) -> None:
    # A seed of its own for each class, which stays whatever others come beside it.
    found = tally(fault, count=fault.quick, number=zlib.crc32(fault.name.encode()))
    assert found.wrong == 0, "\n\n".join(found.reasons)
    assert found.tried > 0


def test_each_class_of_fault_has_a_name_of_its_own() -> None:
    assert len({(fault.group, fault.name) for fault in FAULTS}) == len(FAULTS)
