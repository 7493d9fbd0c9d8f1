"""The Plugins tab's backbones: which are installed on this machine, and the folder in which they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import qt
from slicer.i18n import tr as _

from AnyMC3DLib.backbone_store import FolderContents, InstalledBackbone

from .installed_backbones import InstalledBackbones
from .settings import chosen_backbone_folder, forget_backbone_folder, set_backbone_folder


class Ask(Protocol):
    """What the panel asks a person; whoever leaves a question gives an empty answer."""

    def folder(self, title: str) -> str: ...


class BackbonesPanel:
    """Connects the widgets to the folder; `changed` is called once another folder was chosen.

    Nothing here waits for the folder: what is `installed` is shown by `show` once it was read.
    """

    def __init__(self, ui: Any, *, installed: InstalledBackbones, ask: Ask, changed: Callable[[], None]) -> None:
        self._ui, self._installed, self._ask, self._changed = ui, installed, ask, changed
        self._note = ""
        ui.backbonesFolderButton.connect("clicked()", self.choose_folder)
        ui.backbonesDefaultButton.connect("clicked()", self.use_default)
        ui.backbonesOpenButton.connect("clicked()", self.open_folder)
        self.refresh()

    def refresh(self) -> None:
        """Have the folder read again."""
        self._note = ""
        self._installed.read()
        self.show()

    def show(self) -> None:
        """Show what is known of the folder."""
        ui, contents, place = self._ui, self._installed.contents, str(self._installed.place)
        backbones = self._installed.backbones
        ui.backbonesList.clear()
        for record in backbones.values():
            item = qt.QListWidgetItem(_words(record))
            item.setToolTip(_tip(record))
            ui.backbonesList.addItem(item)
        ui.backbonesList.setVisible(bool(backbones))
        ui.backbonesFolderLabel.setText(place)
        ui.backbonesFolderLabel.setToolTip(place)
        sentences = [sentence for sentence in (_state(contents), self._note) if sentence]
        ui.backbonesStateLabel.setText(" ".join(sentences))
        ui.backbonesStateLabel.setVisible(bool(sentences))
        ui.backbonesOpenButton.setEnabled(contents is not None and contents.there)
        ui.backbonesDefaultButton.setEnabled(chosen_backbone_folder() is not None)

    def choose_folder(self) -> None:
        """Let another folder be the one of this user's backbones."""
        chosen = self._ask.folder(_("Folder of backbones"))
        if chosen and Path(chosen) != self._installed.place:
            self._use(lambda: set_backbone_folder(Path(chosen)))

    def use_default(self) -> None:
        """Let the folder be the one that it is without a choice."""
        self._use(forget_backbone_folder)

    def open_folder(self) -> None:
        """Show the folder in the system's file manager, to put backbones into it."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._installed.place)))

    def _use(self, take: Callable[[], None]) -> None:
        take()
        self._installed.read()
        self._changed()
        self._note = _("The engine looks there from its next job on.")
        self.show()


def _state(contents: FolderContents | None) -> str:
    """What is to be said of the folder, if anything."""
    if contents is None:
        return _("Reading the folder…")
    if contents.problems:
        more = len(contents.problems) - 1
        words = _("{problem} ({count} more cannot be used.)") if more else "{problem}"
        return words.format(problem=contents.problems[0], count=more)
    return "" if contents.backbones else _("No backbone is installed besides the one that came along.")


def _words(record: InstalledBackbone) -> str:
    title = record.title or record.architecture.family
    return _("{title} ({id})").format(title=title, id=record.id)


def _tip(record: InstalledBackbone) -> str:
    return _("{size} million parameters, {licence}; imported from {files} on {date}; {digest}").format(
        size=f"{record.parameters:.1f}",
        licence=record.licence_name or _("licence not stated"),
        files=", ".join(record.source_files),
        date=record.imported[:10],
        digest=record.digest[:19],
    )
