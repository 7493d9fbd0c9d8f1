"""The Split section of the Dataset tab: shares and seed, what they come to, and the split itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from AnyMC3DLib.errors import InputError

from .dataset_room import Room

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset_split import SplitPlan

LATER_MS = 150


class SplitForm:
    """Connects the section's widgets to the dataset that is open."""

    def __init__(self, ui: Any, room: Room) -> None:
        self._ui, self._room = ui, room
        self._coming = self._closed = False
        self._spins = {"train": ui.datasetTrainSpin, "val": ui.datasetValSpin, "test": ui.datasetTestSpin}
        for spin in (*self._spins.values(), ui.datasetSeedSpin):
            spin.connect("valueChanged(int)", self.update_soon)
        ui.datasetSplitSection.connect("contentsCollapsed(bool)", self.update_soon)
        ui.datasetSplitButton.connect("clicked()", self._split)
        ui.datasetSplitPreviewLabel.setTextFormat(qt.Qt.PlainText)

    def update_soon(self, _value: object = None) -> None:
        """The preview is of something else now; many changes at once are looked at together."""
        if not self._coming and not self._ui.datasetSplitSection.collapsed:
            self._coming = True
            qt.QTimer.singleShot(LATER_MS, self._update)

    def close(self) -> None:
        """Look at nothing any more."""
        self._closed = True

    def _update(self) -> None:
        self._coming = False
        if not self._closed:
            self._show(self._planned())

    def _show(self, planned: SplitPlan | str) -> None:
        text = planned if isinstance(planned, str) else summary(planned.counts, Counter(planned.splits.values()))
        self._ui.datasetSplitPreviewLabel.text = text
        self._ui.datasetSplitButton.setEnabled(not isinstance(planned, str))

    def _planned(self) -> SplitPlan | str:
        """The plan, or in a sentence why there is none."""
        dataset = self._room.dataset
        if dataset is None:
            return _("No dataset is open.")
        shares = {name: spin.value / 100 for name, spin in self._spins.items()}
        try:
            return dataset.plan_split(shares, self._ui.datasetSeedSpin.value)
        except InputError as error:
            return str(error)

    def _split(self) -> None:
        planned = self._planned()
        self._show(planned)
        if isinstance(planned, str):
            return
        dataset = self._room.dataset
        dataset.apply(planned)
        self._room.table.refresh(dataset.keys, ["split"])
        self._room.modified()
        self._room.tell(_("The cases are split by patient."))


def summary(counts: Mapping[str, Mapping[str, int]], totals: Mapping[str, int]) -> str:
    """The cases by split and class in words: `train 42 (no 22, yes 20) · val 9 (...)`."""
    parts = []
    for split, by_class in counts.items():
        total = totals.get(split, 0)
        if total:
            known = ", ".join(f"{name} {count}" for name, count in by_class.items())
            shown = split or _("without a split")
            parts.append(f"{shown} {total} ({known})" if known and any(by_class.values()) else f"{shown} {total}")
    return " · ".join(parts)
