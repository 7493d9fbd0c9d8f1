"""What the folder of backbones holds, read in a thread: on a network drive that dropped the answer may never come."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from AnyMC3DLib.backbone_store import FolderContents, InstalledBackbone, backbone_folder, look_into

from .in_thread import InThread

logger = logging.getLogger(__name__)


class InstalledBackbones:
    """The backbones as they were found last; `changed` is called in the application's thread after each look."""

    def __init__(self, *, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._place: Path | None = None
        self._contents: FolderContents | None = None
        self._look: InThread | None = None

    @property
    def place(self) -> Path:
        """The folder."""
        return backbone_folder()

    @property
    def contents(self) -> FolderContents | None:
        """What it holds; None until that is known."""
        return self._contents if self._place == self.place else None

    @property
    def backbones(self) -> Mapping[str, InstalledBackbone]:
        """Those that are known, by id."""
        return self.contents.backbones if self.contents is not None else {}

    def read(self) -> None:
        """Look into the folder, unless that goes on already; a folder that was left is waited for no more."""
        place = self.place
        if self._look is not None and place == self._place:
            return
        self.close()
        if place != self._place:
            self._place, self._contents = place, None
        self._look = InThread(lambda: look_into(place), may_be_left=True)
        self._look.begin(self._found, self._failed)

    def close(self) -> None:
        """Wait for no answer any more."""
        look, self._look = self._look, None
        if look is not None:
            look.cancel()

    def _found(self, contents: FolderContents) -> None:
        self._look, self._contents = None, contents
        self._changed()

    def _failed(self, error: Exception) -> None:
        logger.error("The folder of backbones cannot be looked into.", exc_info=error)
        known = self._contents or FolderContents()
        sentence = f"The folder of backbones '{self._place}' cannot be read ({type(error).__name__}): see the log."
        self._found(dataclasses.replace(known, problems=(sentence,)))
