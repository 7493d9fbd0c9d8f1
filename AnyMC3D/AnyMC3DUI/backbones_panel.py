"""The Plugins tab's backbones: which are installed on this machine, and the folder in which they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import qt
from slicer.i18n import tr as _

from AnyMC3DLib.backbone_store import InstalledBackbone, backbone_folder, installed

from .settings import set_backbone_folder


class Ask(Protocol):
    """What the panel asks a person; whoever leaves a question gives an empty answer."""

    def folder(self, title: str) -> str: ...


class BackbonesPanel:
    """Connects the widgets to the folder; `changed` is called once another folder was chosen."""

    def __init__(self, ui: Any, *, ask: Ask, changed: Callable[[], None]) -> None:
        self._ui, self._ask, self._changed = ui, ask, changed
        ui.backbonesFolderButton.connect("clicked()", self.choose_folder)
        ui.backbonesOpenButton.connect("clicked()", self.open_folder)
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again."""
        ui, place = self._ui, backbone_folder()
        here = installed(place)
        ui.backbonesList.clear()
        for record in here.values():
            item = qt.QListWidgetItem(_words(record))
            item.setToolTip(_tip(record))
            ui.backbonesList.addItem(item)
        ui.backbonesList.setVisible(bool(here))
        ui.backbonesFolderLabel.setText(str(place))
        ui.backbonesFolderLabel.setToolTip(str(place))
        self._tell("" if here else _("No backbone is installed besides the one that came along."))
        ui.backbonesOpenButton.setEnabled(place.is_dir())

    def choose_folder(self) -> None:
        """Let another folder be the one of this user's backbones."""
        chosen = self._ask.folder(_("Folder of backbones"))
        if not chosen or Path(chosen) == backbone_folder():
            return
        set_backbone_folder(Path(chosen))
        self._changed()
        self.refresh()
        self._tell(_("The engine looks there from its next start on."))

    def open_folder(self) -> None:
        """Show the folder in the system's file manager, to put backbones into it."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(backbone_folder())))

    def _tell(self, text: str) -> None:
        self._ui.backbonesStateLabel.setText(text)
        self._ui.backbonesStateLabel.setVisible(bool(text))


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
