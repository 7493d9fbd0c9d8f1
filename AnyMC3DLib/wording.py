"""How files for a person or a program word what they say. Needs the standard library alone."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

PATH_START = r"(?:[A-Za-z]:[\\/]|\\\\|~?/)"
PATH_IN_QUOTES = re.compile(rf"(['\"])({PATH_START}[^'\"]+)\1")
PATH_IN_TEXT = re.compile(rf"(?<![^\s=(,;:]){PATH_START}[^\s'\",;)]+")


def yes_or_no(decision: bool) -> str:
    """The decision in a word."""
    return "yes" if decision else "no"


def one_line(text: str) -> str:
    """The text without what could part its line, or steer the terminal that shows it: a file may have any name."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV with lines that end in a line feed; a value that holds any end of a line is quoted."""
    lines = []
    for row in rows:
        stream = io.StringIO()
        # Python quotes what holds a character of its own line's end; a carriage return parts lines for readers too.
        csv.writer(stream, lineterminator="\r\n").writerow(row)
        lines.append(stream.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def spreadsheet_text(name: str) -> str:
    """The name so that a spreadsheet does not run it as a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def without_paths(value: Any) -> Any:
    """The JSON value with every absolute path in its texts cut to the last name: folders name people and machines."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if re.match(rf"{PATH_START}\S", value):
        return _last_name(value)
    quoted = PATH_IN_QUOTES.sub(lambda found: f"{found[1]}{_last_name(found[2])}{found[1]}", value)
    return PATH_IN_TEXT.sub(lambda found: _last_name(found[0]), quoted)


def _last_name(path: str) -> str:
    # Windows' rules split at either slash.
    return PureWindowsPath(path).name
