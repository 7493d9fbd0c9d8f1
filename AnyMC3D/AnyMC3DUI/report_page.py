"""The report of what the panel shows: a page with pictures of the views, and a table, written without the engine."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.files import write_text
from AnyMC3DLib.wording import spreadsheet_text, yes_or_no

from .answer_rows import answer_rows
from .answer_view import decision_words, percent
from .results import StudyResults

COLUMNS = ("plugin", "version", "class", "probability", "threshold", "decision", "uncertain")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
body { max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: 0.2rem 1.2rem 0.2rem 0; border-bottom: 1px solid #8884; }
.decided { font-weight: 600; }
.warning { border-left: 4px solid #b93a0b; padding-left: 0.8rem; }
figure { display: inline-block; width: calc(50% - 1rem); margin: 0.4rem; }
img { width: 100%; }
"""


def save_report(
    results: Sequence[StudyResults],
    *,
    ask: Callable[[], str] | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> str | None:
    """Write page and table where `ask` says; returns a sentence about it, or None where no place was chosen.

    `pictures` are PNG by caption; without them the views are pictured as they are. Raises InputError.
    """
    place = (ask or _asked)()
    if not place:
        return None
    page = Path(place).with_suffix(".html")
    table = page.with_suffix(".csv")
    shown = view_pictures() if pictures is None else pictures
    write_text(table, table_text(results))
    write_text(page, page_text(results, shown, title=_("AnyMC3D report")))
    return _("The report is in {page} and {table}.").format(page=page.name, table=table.name)


def table_text(results: Sequence[StudyResults]) -> str:
    """The answers as CSV, one class a line."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for prediction in _predictions(results):
        plugin = prediction["plugin"]
        for row in answer_rows(prediction):
            names = (spreadsheet_text(name) for name in (plugin["name"], plugin["version"], row.class_name))
            words = yes_or_no(row.decision), yes_or_no(row.uncertain)
            writer.writerow([*names, row.probability, row.threshold, *words])
    return stream.getvalue()


def page_text(results: Sequence[StudyResults], pictures: Mapping[str, bytes], *, title: str) -> str:
    """The page; no name of the patient or of a series gets into it."""
    sections = "".join(_section(result, name) for result in results for name in result.predictions)
    figures = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, png in pictures.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<p>{html.escape(results[0].date[:16].replace('T', ' ') if results else '')} UTC</p>"
        f"{sections}{figures}</body></html>\n"
    )


def _predictions(results: Sequence[StudyResults]) -> list[Mapping[str, Any]]:
    return [prediction for result in results for prediction in result.predictions.values()]


def _section(result: StudyResults, name: str) -> str:
    prediction = result.predictions[name]
    plugin = prediction["plugin"]
    rows = "".join(
        f'<tr class="{"decided" if row.decision else ""}"><td>{html.escape(row.class_name)}</td>'
        f"<td>{percent(row.probability)}</td><td>{percent(row.threshold)}</td><td>{decision_words(row)}</td></tr>"
        for row in answer_rows(prediction)
    )
    spots = "".join(
        f"<li>{html.escape(class_name)}: {heat:.2f} ({', '.join(f'{value:.0f}' for value in ras)})</li>"
        for class_name in prediction["hot_spots"]
        for ras, heat in result.spots_of(name, class_name)
    )
    warnings = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in prediction["warnings"])
    heads = "".join(f"<th>{text}</th>" for text in (_("Class"), _("Probability"), _("Threshold"), _("Decision")))
    hot = f"<h3>{_('Hot spots: heat (R, A, S in mm)')}</h3><ul>{spots}</ul>" if spots else ""
    return (
        f"<h2>{html.escape(plugin['name'])} {html.escape(plugin['version'])}</h2>"
        f"<p><b>{html.escape(plugin['intended_use'])}</b></p>{warnings}"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{hot}"
    )


def view_pictures() -> dict[str, bytes]:
    """The slice views and the first 3D view as PNG, as they are on the screen; hidden ones are left out.

    Without the texts in their corners, which name the series and may name the patient.
    """
    manager = slicer.app.layoutManager()
    if manager is None:
        return {}
    views = {name: manager.sliceWidget(name).sliceView() for name in manager.sliceViewNames()}
    if manager.threeDViewCount:
        views["3D"] = manager.threeDWidget(0).threeDView()
    return {name: _without_corners(view) for name, view in views.items() if view.visible}


def _without_corners(view: Any) -> bytes:
    corners = view.cornerAnnotation()
    shown = corners.GetVisibility()
    corners.SetVisibility(False)
    try:
        return _png(view)
    finally:
        corners.SetVisibility(shown)
        view.scheduleRender()


def _png(view: Any) -> bytes:
    view.forceRender()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(view.renderWindow())
    grab.Update()
    writer = vtk.vtkPNGWriter()
    writer.WriteToMemoryOn()
    writer.SetInputConnection(grab.GetOutputPort())
    writer.Write()
    return bytes(memoryview(writer.GetResult()))


def _asked() -> str:
    if slicer.app.testingEnabled():
        raise InputError("No dialog is shown while the application is being tested: name the file.")
    title, kind = _("Save the report"), _("Page")
    answer = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, "report.html", f"{kind} (*.html)")
    # PySide6 answers with the filter besides the name, PythonQt with the name alone.
    return answer if isinstance(answer, str) else answer[0]
