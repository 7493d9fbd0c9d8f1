"""The questions that the panels ask a person; tests answer in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qt
import slicer


class Dialogs:
    """Dialogs over the application's window; whoever leaves one without an answer gives an empty one."""

    def open_file(self, title: str, kinds: str) -> str:
        """The path of a file that is there; `kinds` such as "Tables (*.csv)"."""
        return _path(qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", kinds))

    def save_file(self, title: str, name: str, kinds: str) -> str:
        """The path of a file to write, `name` being offered."""
        return _path(qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, kinds))

    def folder(self, title: str) -> str:
        """The path of a folder."""
        return _path(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title))

    def yes(self, question: str) -> bool:
        """Whether the answer is yes."""
        return bool(slicer.util.confirmYesNoDisplay(question))

    def text(self, title: str, label: str, text: str = "") -> str | None:
        """A line of text; None where the dialog was left."""
        answer = self.fields(title, {label: text})
        return None if answer is None else answer[label]

    def fields(self, title: str, values: Mapping[str, str]) -> dict[str, str] | None:
        """Lines of text by their labels; None where the dialog was left."""
        dialog = qt.QDialog(slicer.util.mainWindow())
        dialog.setWindowTitle(title)
        form = qt.QFormLayout(dialog)
        edits = {label: qt.QLineEdit(value) for label, value in values.items()}
        for label, edit in edits.items():
            edit.setMinimumWidth(320)
            form.addRow(label, edit)
        buttons = qt.QDialogButtonBox(qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel)
        buttons.connect("accepted()", dialog.accept)
        buttons.connect("rejected()", dialog.reject)
        form.addRow(buttons)
        accepted = dialog.exec_()
        dialog.deleteLater()
        return {label: edit.text.strip() for label, edit in edits.items()} if accepted else None


def _path(answer: Any) -> str:
    # PySide6 answers with the filter besides the name, PythonQt with the name alone.
    return answer if isinstance(answer, str) else answer[0]
