"""What is kept for a user, not for a scene."""

from __future__ import annotations

import os
from pathlib import Path

import slicer

from AnyMC3DLib.backbone_store import FOLDER_VARIABLE

PLUGIN_FOLDER = "AnyMC3D/PluginFolder"
BACKBONE_FOLDER = "AnyMC3D/BackboneFolder"
# What the environment named as the folder of backbones before the setting took its place.
BEFORE_VARIABLE = "ANYMC3D_BACKBONES_BEFORE"
PSEUDONYM_KEY = "AnyMC3D/PseudonymKey"


def plugin_folder() -> Path:
    """Where the user's plugins lie: the folder of the setting, else one beside the application's settings."""
    settings = slicer.app.userSettings()
    chosen = settings.value(PLUGIN_FOLDER)
    return Path(chosen) if chosen else Path(settings.fileName()).parent / "AnyMC3D" / "Plugins"


def chosen_backbone_folder() -> str | None:
    """The folder of backbones that the user chose, None without a choice."""
    return str(slicer.app.userSettings().value(BACKBONE_FOLDER) or "") or None


def use_backbone_folder() -> None:
    """Let the folder of the setting, if there is one, be that of the backbones, here and in the workers to come.

    Without one it is what it was before a setting came.
    """
    chosen = chosen_backbone_folder()
    before = os.environ.get(BEFORE_VARIABLE)
    if chosen:
        if before is None:
            # In the environment, since Slicer loads modules again while it runs.
            os.environ[BEFORE_VARIABLE] = os.environ.get(FOLDER_VARIABLE, "")
        os.environ[FOLDER_VARIABLE] = chosen
    elif before is not None:
        del os.environ[BEFORE_VARIABLE]
        os.environ[FOLDER_VARIABLE] = before


def set_backbone_folder(folder: Path) -> None:
    """Keep `folder` as the user's folder of backbones, and use it from now on."""
    slicer.app.userSettings().setValue(BACKBONE_FOLDER, str(folder))
    use_backbone_folder()


def forget_backbone_folder() -> None:
    """Let the folder of backbones be the one that it is without a choice, from now on."""
    slicer.app.userSettings().remove(BACKBONE_FOLDER)
    use_backbone_folder()


def pseudonym_key() -> bytes:
    """The user's secret that pseudonyms are made with, drawn once; no dataset holds it."""
    from AnyMC3DLib.training.pseudonym import new_key

    settings = slicer.app.userSettings()
    written = str(settings.value(PSEUDONYM_KEY) or "")
    try:
        key = bytes.fromhex(written)
    except ValueError:
        key = b""
    if len(key) < 16:
        key = new_key()
        settings.setValue(PSEUDONYM_KEY, key.hex())
    return key
