"""What a plugin's file claims, as the question before it is copied; everything in it is another person's text."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable

from slicer.i18n import tr as _

from AnyMC3DLib.plugin_edit import Claims

from .plugin_folder import PluginCard

LONGEST = 300  # characters of a text in the question, which has no scroll bar
MOST = 8  # of classes, figures, warnings
LONGEST_WORD = 40
DIGITS = 19  # of a digest
MEGABYTE = 1 << 20


def claims_text(claims: Claims) -> str:
    """The question whether to install the file that claims this, as HTML."""
    warnings = "".join(f"<li>{shown(line)}</li>" for line in _few(claims.warnings))
    rows = "".join(
        f"<tr><td style='padding-right: 8px'>{html.escape(label)}:</td><td>{shown(text)}</td></tr>"
        for label, text in _rows(claims)
    )
    parts = [
        f"<b>{shown(claims.name)}</b> {shown(claims.version)}<br>{shown(claims.description)}",
        f"{_('The file claims:')}<table cellspacing='1'>{rows}</table>",
        f"{_('Mind:')}<ul>{warnings}</ul>" if warnings else "",
        html.escape(_not_verified()),
        f"<b>{html.escape(_('Install this plugin?'))}</b>",
    ]
    return "".join(f"<p>{part}</p>" for part in parts if part)


def replaces_text(claims: Claims, installed: PluginCard) -> str:
    """The question whether the file may take the place of an installed plugin of its name, as HTML."""
    words = _("The plugin {name}, version {old}, is installed already. Replace it by version {new}?")
    named = {"name": f"<b>{shown(claims.name)}</b>", "old": shown(installed.version), "new": shown(claims.version)}
    return f"<p>{html.escape(words).format(**named)}</p>"


def shown(text: str) -> str:
    """A foreign text as HTML that shows it as it is: not too long, and with no word that would widen the dialog."""
    words = textwrap.shorten(text, LONGEST, placeholder=" …") or text[:LONGEST]
    broken = (
        "\u200b".join(word[start : start + LONGEST_WORD] for start in range(0, len(word), LONGEST_WORD))
        for word in words.split(" ")
    )
    return html.escape(" ".join(broken))


def _not_verified() -> str:
    return _(
        "The file is whole and holds numbers alone: nothing in it can be run. What cannot be verified is who made it, "
        "on which cases it was trained and measured, its figures and its licence. Take plugins only from people whom "
        "you trust."
    )


def _rows(claims: Claims) -> Iterable[tuple[str, str]]:
    size = _("{values:,} values, {size:.1f} MB")
    told = [
        (_("Answers"), ", ".join(_few(claims.classes))),
        (_("Task"), claims.task),
        (_("Backbone"), " ".join(filter(None, [claims.backbone, claims.backbone_digest[:DIGITS]]))),
        (_("Trained on"), claims.counts),
        (_("Figures"), "; ".join(_few(claims.figures))),
        (_("Date"), claims.date),
        (_("Changed later"), claims.revised),
        (_("Licence"), claims.licence),
        (_("Intended use"), claims.intended_use),
        (_("Members"), str(claims.members) if claims.members > 1 else ""),
        (_("Size"), size.format(values=claims.values, size=claims.tensor_bytes / MEGABYTE)),
    ]
    return [(label, text) for label, text in told if text]


def _few(texts: tuple[str, ...]) -> list[str]:
    left = len(texts) - MOST
    return [*texts[:MOST], _("and {count} more").format(count=left)] if left > 0 else list(texts)
