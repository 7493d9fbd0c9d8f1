"""What is kept for a user, not for a scene."""

from __future__ import annotations

from pathlib import Path

import slicer

PLUGIN_FOLDER = "AnyMC3D/PluginFolder"


def plugin_folder() -> Path:
    """Where the user's plugins lie: the folder of the setting, else one beside the application's settings."""
    settings = slicer.app.userSettings()
    chosen = settings.value(PLUGIN_FOLDER)
    return Path(chosen) if chosen else Path(settings.fileName()).parent / "AnyMC3D" / "Plugins"
