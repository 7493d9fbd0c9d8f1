"""What the sections of the Dataset tab share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .dataset_table import CaseTable

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset import Dataset

STEPS = 1000  # of the progress bar


class Asker(Protocol):
    """The questions to a person, see `dialogs.Dialogs`; without an answer a text is empty, or None."""

    def open_file(self, title: str, kinds: str) -> str: ...

    def save_file(self, title: str, name: str, kinds: str) -> str: ...

    def folder(self, title: str) -> str: ...

    def yes(self, question: str) -> bool: ...

    def text(self, title: str, label: str, text: str = "") -> str | None: ...


class Room(Protocol):
    """The tab, as its sections see it."""

    dataset: Dataset | None
    table: CaseTable
    ask: Asker

    def tell(self, sentence: str) -> None:
        """A sentence where the state is shown."""

    def modified(self, *, columns: bool = False) -> None:
        """The dataset was changed; its classes too, or its columns, where so said."""

    def progress(self, far: float | None) -> None:
        """How far the work is, in [0, 1]; 1 goes on without a known end, and None says that there is none."""

    def busy(self, on: bool) -> None:
        """While this is so, no other dataset is opened."""
