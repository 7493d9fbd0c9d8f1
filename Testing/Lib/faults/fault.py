"""A class of fault, and the count of how its generated cases ended."""

from __future__ import annotations

import dataclasses
import enum
import re
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from AnyMC3DLib.errors import AnyMC3DError


class Outcome(enum.Enum):
    """How a case may end well: with the answer of its clean twin, or with one sentence for a person."""

    WORKED = "worked"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One line of the table: how its cases are drawn, and who judges them.

    `judge` gets a drawn case and an empty folder of its own. It returns how the case ended; whatever it raises, an
    AssertionError above all, counts as wrong. `quick` is how many cases the tests run, `full` how many the table.
    """

    group: str
    name: str
    cases: SearchStrategy[Any]
    judge: Callable[[Any, Path], Outcome]
    quick: int = 5
    full: int = 200


@dataclasses.dataclass
class Tally:
    """How the cases of one class ended; `reasons` holds the first few that went wrong."""

    worked: int = 0
    refused: int = 0
    wrong: int = 0
    reasons: list[str] = dataclasses.field(default_factory=list)

    @property
    def tried(self) -> int:
        """All cases."""
        return self.worked + self.refused + self.wrong


def tally(fault: Fault, *, count: int, number: int) -> Tally:
    """Draw `count` cases with the seed `number`, judge each in a folder of its own, and count how they end.

    Fewer are tried where there are not so many different ones.
    """
    found = Tally()

    @seed(number)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    @given(fault.cases)
    def judged(case: Any) -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                outcome = fault.judge(case, Path(folder))
            except Exception:
                found.wrong += 1
                if len(found.reasons) < 3:
                    found.reasons.append(f"{case!r:.600}\n{traceback.format_exc(limit=-6)}")
            else:
                found.worked += outcome is Outcome.WORKED
                found.refused += outcome is Outcome.REFUSED

    judged()
    return found


def refused(error: AnyMC3DError, *, names: tuple[str, ...] = (), private: tuple[str, ...] = ()) -> Outcome:
    """REFUSED, if the error is one sentence for a person that holds every word of `names` and none of `private`."""
    text = str(error)
    assert text and "\n" not in text and text.endswith((".", "?")), f"not one sentence: {text!r}"
    assert len(text) <= 700, f"too long to read: {text!r}"
    assert not re.search(r"Traceback|Error\(|0x[0-9a-f]{6}|<class|object at", text), f"not for a person: {text!r}"
    for word in names:
        assert word in text, f"{word!r} is not named in {text!r}"
    for word in private:
        assert word not in text, f"{word!r} is told in {text!r}"
    return Outcome.REFUSED
