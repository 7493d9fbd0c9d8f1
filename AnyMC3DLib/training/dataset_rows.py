"""The rows of an editable table of labelled cases: keys that stay, names that no two have."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from ..errors import InputError
from ..manifest import CASE


@dataclasses.dataclass
class DatasetCase:
    """A row: its key, which no other row ever gets, and its cells that are not empty, by column."""

    key: int
    cells: dict[str, str]


class CaseRows:
    """Rows by key, in their order; whatever is done to one takes the same time however many there are."""

    def __init__(self) -> None:
        self._rows: dict[int, DatasetCase] = {}
        self._names: Counter[str] = Counter()  # casefolded: upper and lower case are one to many disks
        self._next_key = self._next_number = 1

    @property
    def keys(self) -> tuple[int, ...]:
        """The keys in the order of the rows."""
        return tuple(self._rows)

    @property
    def all(self) -> Iterable[DatasetCase]:
        """The rows in their order."""
        return self._rows.values()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: int) -> bool:
        return key in self._rows

    def __getitem__(self, key: int) -> DatasetCase:
        """The row itself; raises InputError for a key that there is not."""
        if key not in self._rows:
            raise InputError(f"There is no case {key} any more: choose another.")
        return self._rows[key]

    def cells(self) -> dict[int, dict[str, str]]:
        """The cells of all rows by key, not copied."""
        return {key: case.cells for key, case in self._rows.items()}

    def append(self, cells: dict[str, str]) -> int:
        """Add a row and return its key; nothing is checked."""
        key = self._next_key
        self._next_key += 1
        self._rows[key] = DatasetCase(key, cells)
        self._names[cells.get(CASE, "").casefold()] += 1
        return key

    def remove(self, keys: Iterable[int]) -> None:
        """Take rows out; raises InputError for a key that there is not, and then takes none out."""
        for key in [self[key].key for key in dict.fromkeys(keys)]:
            self._names.subtract((self._rows.pop(key).cells.get(CASE, "").casefold(),))

    def put(self, key: int, column: str, value: str) -> None:
        """Put a value into a cell, which is empty for ""."""
        cells = self[key].cells
        if column == CASE:
            self._names.subtract((cells.get(CASE, "").casefold(),))
            self._names[value.casefold()] += 1
        cells[column] = value
        if not value:
            del cells[column]

    def check_name(self, name: str, *, own: str = "") -> None:
        """Raise InputError if a case that is called `own` cannot be called `name`."""
        if not name:
            raise InputError("A case needs a name: give it one of its own.")
        if name.casefold() != own.casefold() and self._names[name.casefold()] > 0:
            raise InputError(f"Another case is called '{name}' already: give this one a name of its own.")

    def new_name(self) -> str:
        """A name that no row has."""
        while self._names[f"case-{self._next_number:03d}"] > 0:
            self._next_number += 1
        return f"case-{self._next_number:03d}"
