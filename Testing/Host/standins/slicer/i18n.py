"""Translation of a script's texts: the context is the file's name, after its package where it has one."""

from __future__ import annotations

import inspect
from pathlib import Path

import slicer


def getContext(path: str) -> str:  # noqa: N802 - the names are Slicer's here and below
    """The name under which Qt's tools keep the texts of a file."""
    file = Path(path)
    return f"{file.parent.name}.{file.stem}" if (file.parent / "__init__.py").is_file() else file.stem


def translate(context: str, text: str) -> str:
    """A text in the language of the application."""
    app = getattr(slicer, "app", None)
    return app.translate(context, text) if app else text


def tr(text: str) -> str:
    """As `translate`, with the context of the file that calls."""
    return translate(getContext(inspect.currentframe().f_back.f_code.co_filename), text)
