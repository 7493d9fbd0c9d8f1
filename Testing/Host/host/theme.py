"""Slicer's light and dark look: Qt's Fusion style, with a palette."""

from __future__ import annotations

import qt

DARK = {
    "Window": "#353535", "WindowText": "#ffffff", "Base": "#232323", "AlternateBase": "#2c2c2c", "Text": "#ffffff",
    "Button": "#454545", "ButtonText": "#ffffff", "ToolTipBase": "#454545", "ToolTipText": "#ffffff",
    "Highlight": "#2a82da", "HighlightedText": "#ffffff", "Link": "#5aa9f0", "Mid": "#5a5a5a", "Dark": "#232323",
    "PlaceholderText": "#9a9a9a", "Light": "#606060", "Midlight": "#4d4d4d", "Shadow": "#141414",
}  # fmt: skip


def set_theme(name: str) -> None:
    """`light` or `dark`."""
    application = qt.QApplication.instance()
    application.setStyle("Fusion")
    hints = application.styleHints()
    if hasattr(hints, "setColorScheme"):
        hints.setColorScheme(qt.Qt.ColorScheme.Dark if name == "dark" else qt.Qt.ColorScheme.Light)
    if name == "light":
        return
    palette = qt.QPalette()
    for role, colour in DARK.items():
        palette.setColor(getattr(qt.QPalette, role), qt.QColor(colour))
    for role in ("WindowText", "Text", "ButtonText"):
        palette.setColor(qt.QPalette.Disabled, getattr(qt.QPalette, role), qt.QColor("#8a8a8a"))
    application.setPalette(palette)
