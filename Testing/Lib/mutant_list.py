"""The deliberate bugs of mutants.yaml: each a small change of one file, and the tests that must catch it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml
from places import REPOSITORY

LIST = Path(__file__).with_name("mutants.yaml")
LIBRARY = "AnyMC3DLib"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutant:
    """A bug by its name: `old` in the library's `file` becomes `new`, which the `tests` (node ids) must notice."""

    name: str
    why: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def source(self) -> str:
        """The file as it is."""
        return (REPOSITORY / LIBRARY / self.file).read_text(encoding="utf-8")

    def changed(self) -> str:
        """The file with the bug; raises ValueError unless the old text is there exactly once."""
        found = self.source.count(self.old)
        if found != 1:
            raise ValueError(
                f"'{self.name}': the old text is {found} times in {LIBRARY}/{self.file}, not once: the code has moved "
                "on, so change mutants.yaml with it."
            )
        return self.source.replace(self.old, self.new)


def read_mutants() -> tuple[Mutant, ...]:
    """All of them, in the order of the list."""
    entries = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return tuple(Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries)
