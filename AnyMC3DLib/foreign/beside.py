"""What lies in the folder beside weights: configs, and what their makers say of the licence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BackboneError

CONFIGS = ("config.json", "open_clip_config.json")
PROCESSORS = ("preprocessor_config.json",)
LARGEST = 4 << 20
LICENCES = ("LICENSE*", "LICENCE*", "license*")
LONGEST_LICENCE, LONGEST_LICENCE_NAME = 100_000, 80


def contained(file: Path, folder: Path) -> Path:
    """The file; raises BackboneError if it is a link that leads out of the folder, to whatever lies there."""
    target = file.resolve()
    # A folder of the hub's cache links to the blobs beside it.
    allowed = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        allowed.append(folder.resolve().parents[1] / "blobs")
    if target.parent not in allowed:
        raise BackboneError(
            f"'{file.name}' is a link that leads out of its folder: put the file itself there, or name it alone."
        )
    return file


def json_beside(folder: Path, names: Iterable[str]) -> Mapping[str, Any]:
    """The first JSON object of these names in the folder, or {}; raises BackboneError if it cannot be used."""
    for name in names:
        file = folder / name
        if not file.is_file():
            continue
        try:
            if contained(file, folder).stat().st_size > LARGEST:
                raise BackboneError(f"The config '{name}' beside the weights is too large: get the folder again.")
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BackboneError(
                f"The config '{name}' beside the weights cannot be read: get the folder again."
            ) from error
        if not isinstance(value, Mapping):
            raise BackboneError(f"The config '{name}' beside the weights is no JSON object: get the folder again.")
        return value
    return {}


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
    try:
        if not file.is_file() or contained(file, folder).stat().st_size > LARGEST:
            return ""
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
