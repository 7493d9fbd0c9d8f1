"""What lies in the folder beside weights: configs, and what their makers say of the licence."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BackboneError

logger = logging.getLogger(__name__)

CONFIGS = ("config.json", "open_clip_config.json")
# In the order in which Transformers takes them.
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
# From version 5 on Transformers keeps what the slices go through within the file of all that a model's inputs do.
WITHIN = {"processor_config.json": "image_processor"}
LARGEST = 4 << 20
LICENCES = ("LICENSE*", "LICENCE*", "license*")
LONGEST_LICENCE, LONGEST_LICENCE_NAME = 100_000, 80


def contained(file: Path, folder: Path) -> Path:
    """The file; raises BackboneError if it is a link that leads out of the folder, to whatever lies there."""
    if not _is_within(file, folder):
        raise BackboneError(
            f"'{file.name}' is a link that leads out of its folder: put the file itself there, or name it alone."
        )
    return file


def _is_within(file: Path, folder: Path) -> bool:
    home = folder.resolve()
    allowed = [home]
    # A folder of the hub's cache links to the blobs beside it; one of a repository's own folders may be meant.
    snapshots = next((place for place in home.parents if place.name == "snapshots"), None)
    if snapshots is not None:
        allowed.append(snapshots.parent / "blobs")
    return file.resolve().parent in allowed


def json_beside(folder: Path, names: Iterable[str]) -> Mapping[str, Any]:
    """The first JSON object of these names in the folder, or {}; raises BackboneError if it cannot be used."""
    return _first_beside(folder, names)[1]


def processor_name_beside(folder: Path) -> str:
    """The name of the file that says how Transformers prepares slices, or ''; raises as `json_beside`."""
    return _first_beside(folder, PROCESSORS)[0]


def _first_beside(folder: Path, names: Iterable[str]) -> tuple[str, Mapping[str, Any]]:
    for name in names:
        value = _json(folder, name)
        if name in WITHIN and value is not None:
            # Versions before keep other things alone in this file.
            inner = value.get(WITHIN[name])
            value = inner if isinstance(inner, Mapping) else None
        if value is not None:
            return name, value
    return "", {}


def _json(folder: Path, name: str) -> Mapping[str, Any] | None:
    file = folder / name
    try:
        if not file.is_file():
            return None
        if contained(file, folder).stat().st_size > LARGEST:
            raise BackboneError(f"The config '{name}' beside the weights is too large: get the folder again.")
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"The config '{name}' beside the weights cannot be read: get the folder again.") from error
    if not isinstance(value, Mapping):
        raise BackboneError(f"The config '{name}' beside the weights is no JSON object: get the folder again.")
    return value


def licence_beside(folder: Path) -> str:
    """The text of the licence in the folder, or ''."""
    for pattern in LICENCES:
        for file in sorted(folder.glob(pattern)):
            text = _text(file, folder)
            if text:
                # It goes into a header, which is read whenever backbones are listed.
                return text[:LONGEST_LICENCE]
    return ""


def licence_name_beside(folder: Path) -> str:
    """What the front matter of the folder's README calls the licence, or ''."""
    head = re.match(r"---\r?\n(.*?)\r?\n---", _text(folder / "README.md", folder), re.DOTALL)
    if head is None:
        return ""
    stated = {key: _stated(head[1], key) for key in ("license", "license_name")}
    return stated["license_name"] or stated["license"] if stated["license"] == "other" else stated["license"]


def _stated(front: str, key: str) -> str:
    found = re.search(rf"^{key}:[ \t]*(.*)$", front, re.MULTILINE)
    text = found[1].strip().strip("'\"") if found else ""
    return text if text.isprintable() and len(text) <= LONGEST_LICENCE_NAME else ""


def _text(file: Path, folder: Path) -> str:
    """The file's text, '' where there is none; what a link brings from elsewhere is no word of the weights' makers."""
    try:
        if not file.is_file() or file.stat().st_size > LARGEST:
            return ""
        if not _is_within(file, folder):
            logger.warning("'%s' beside the weights is a link that leads out of its folder: it was left out", file.name)
            return ""
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
