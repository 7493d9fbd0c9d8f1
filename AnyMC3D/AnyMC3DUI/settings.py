"""What is kept for a user, not for a scene."""

from __future__ import annotations

from pathlib import Path

import slicer

PLUGIN_FOLDER = "AnyMC3D/PluginFolder"
PSEUDONYM_KEY = "AnyMC3D/PseudonymKey"


def plugin_folder() -> Path:
    """Where the user's plugins lie: the folder of the setting, else one beside the application's settings."""
    settings = slicer.app.userSettings()
    chosen = settings.value(PLUGIN_FOLDER)
    return Path(chosen) if chosen else Path(settings.fileName()).parent / "AnyMC3D" / "Plugins"


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
