"""A plugin's card, and a list entry, as the panel shows them: rich text that Qt can lay out."""

from __future__ import annotations

import html

from slicer.i18n import tr as _

from .plugin_folder import DamagedFile, PluginCard


def card_text(card: PluginCard) -> str:
    """All that a person should know before ticking a plugin."""
    measured = _("Test AUC") if card.auc and card.auc.split == "test" else _("AUC")
    rows = [
        (_("Classes"), ", ".join(card.classes)),
        (_("For"), _joined([card.anatomy, card.modality])),
        (measured, str(card.auc or _("not told"))),
        (_("Trained on"), card.trained_on),
        (_("Looks at"), _looks_at(card)),
        (_("Backbone"), card.backbone.id),
        (_("Licence"), card.licence or _("not told")),
    ]
    lines = "".join(
        f"<tr><td style='padding-right: 8px'>{html.escape(label)}:</td><td>{html.escape(text)}</td></tr>"
        for label, text in rows
        if text
    )
    title = f"<b>{html.escape(card.name)}</b> {html.escape(card.version)}"
    return (
        f"<div>{title}<br>{html.escape(card.answers)}</div>"
        f"<div><b>{html.escape(card.intended_use)}</b></div><table cellspacing='1'>{lines}</table>"
    )


def damaged_text(file: DamagedFile) -> str:
    """Why a file in the plugin folder cannot be used."""
    return f"<b>{html.escape(file.path.name)}</b><br>{html.escape(file.sentence)}"


def entry_text(card: PluginCard) -> str:
    """One line of the list."""
    about = _joined([card.anatomy, card.modality])
    return f"{card.name}  ({about})" if about else card.name


def _joined(parts: list[str]) -> str:
    return ", ".join(part for part in parts if part)


def _looks_at(card: PluginCard) -> str:
    views = [f"{axis} {_('slices of')} {source}" for _name, source, axis in card.views]
    words = {"box": _("a box (markups ROI) in"), "segment": _("a segment in")}
    regions = [f"{words.get(kind, kind)} {source}" for source, kind in card.regions.items()]
    return "; ".join([*views, *regions])
