"""The report that a person saves: pictures as the views show them, a table, and nobody's name."""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import slicer
from hosting import Host, host, prediction, qt, seen_host  # noqa: F401
from test_module import SAMPLE, file_answer, loaded, tick

SHAPE = (24, 28, 32)
SPACING = 3.0
PLACE = (6.0, -9.0, 3.0)  # of the heat, and of the slices that are shown
PICTURE = re.compile(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]*)">')
NAMES = ("JANE^DOE", "4711-ID", "KNEE_SERIES")
Pixels = npt.NDArray[np.uint8]


def around(ras: tuple[float, float, float], radius: float) -> npt.NDArray[np.bool_]:
    """The voxels [k, j, i] of a ball."""
    k, j, i = np.indices(SHAPE)
    points = np.stack([i, j, k], axis=-1) @ affine()[:3, :3].T + affine()[:3, 3]
    return np.linalg.norm(points - ras, axis=-1) < radius


def affine() -> npt.NDArray[np.float64]:
    matrix = np.diag([SPACING, SPACING, SPACING, 1.0])
    matrix[:3, 3] = -SPACING * (np.array(SHAPE[::-1]) - 1) / 2
    return matrix


def study() -> Any:
    """A grey ball, of a patient with a name."""
    array = np.where(around((0, 0, 0), 35), 80, 0).astype(np.int16)
    volume = slicer.util.addVolumeFromArray(array, ijkToRAS=affine(), name=NAMES[2])
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), NAMES[0])
    hierarchy.SetItemAttribute(patient, "DICOM.PatientID", NAMES[1])
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), patient)
    volume.SetAttribute("DICOM.PatientName", NAMES[0])
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return volume


def show_heat(widget: Any) -> None:
    """As if the worker had rendered it."""
    panel = widget.desk.results
    (results,) = panel._results
    panel._set_button(True)
    heat = np.where(around(PLACE, 15), 0.9, 0.0).astype(np.float32)
    panel._rendered(results, SAMPLE, "lesion", heat)
    assert widget.desk.overlay.visible


def answered(running: Host) -> Any:
    """The module with an answer for a study, and the views at the place of its heat."""
    widget = loaded(running)
    running.window.show()
    volume = study()
    tick(widget)
    file_answer(widget, volume, spots={"lesion": [(PLACE, 0.9)]})
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *PLACE)
    return widget


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """What the dialog answers, by its last name; the page's path."""

    def answer(name: str) -> Path:
        place = tmp_path / name if name else None
        monkeypatch.setattr("AnyMC3DUI.report_page._asked", lambda: str(place or ""))
        return place or tmp_path

    return answer


def saved(widget: Any, page: Path) -> str:
    """The page that the button writes."""
    widget.ui.saveReportButton.click()
    assert page.name in widget.ui.heatStateLabel.text
    return page.read_text(encoding="utf-8")


def pictures(page: str) -> dict[str, Pixels]:
    """By caption, [rows, columns, RGB]."""
    return {name: decoded(base64.b64decode(text, validate=True)) for name, text in PICTURE.findall(page)}


def decoded(png: bytes) -> Pixels:
    image = qt.QImage.fromData(png, "PNG").convertToFormat(qt.QImage.Format_RGB888)
    assert not image.isNull()
    rows = np.frombuffer(image.constBits(), dtype=np.uint8).reshape(image.height(), image.bytesPerLine())
    # A copy, for the bits go with the image.
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


def without_pictures(page: str) -> str:
    return PICTURE.sub(r"<img \1>", page)


def heat_pixels(picture: Pixels) -> npt.NDArray[np.bool_]:
    """From red to yellow, and neither grey nor blue."""
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    return (red > 90) & (red - blue > 40) & (red - green > 25)


def pixel_of(view: Any, ras: tuple[float, float, float]) -> tuple[int, int]:
    """Where a place is in the view's picture: row and column."""
    to_xy = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.mrmlSliceNode().GetXYToRAS()))
    column, row_from_below, *_ = to_xy @ (*ras, 1.0)
    return round(view.pixels()[1] - 1 - row_from_below), round(column)


def test_every_view_is_in_the_page_as_it_is_on_the_screen(seen_host: Host, ask: Callable[[str], Path]) -> None:  # noqa: F811
    widget = answered(seen_host)
    show_heat(widget)
    found = pictures(saved(widget, ask("report.html")))
    manager = slicer.app.layoutManager()
    views = {name: manager.sliceWidget(name).sliceView() for name in ("Red", "Green", "Yellow")}
    views["3D"] = manager.threeDWidget(0).threeDView()
    assert set(found) == set(views)
    for name, view in views.items():
        width, height = view.pixels()
        assert found[name].shape == (height, width, 3)
        assert found[name].std() > 5
        if name != "3D":
            assert np.array_equal(found[name], view.array())
    assert len({found[name].tobytes() for name in found}) == len(found)


def test_heat_is_in_the_pictures_while_it_is_shown_and_else_not(seen_host: Host, ask: Callable[[str], Path]) -> None:  # noqa: F811
    widget = answered(seen_host)
    show_heat(widget)
    page = ask("report.html")
    with_heat = pictures(saved(widget, page))
    view = slicer.app.layoutManager().sliceWidget("Red").sliceView()
    row, column = pixel_of(view, PLACE)
    hot = heat_pixels(with_heat["Red"])
    # About the hot spot's own mark, which is blue.
    assert hot[row - 12 : row + 13, column - 12 : column + 13].mean() > 0.5
    widget.ui.overlayButton.click()
    without = pictures(saved(widget, page))
    assert not any(heat_pixels(without[name]).any() for name in ("Red", "Green", "Yellow"))


def test_a_view_that_is_not_seen_is_not_in_the_page(seen_host: Host, ask: Callable[[str], Path]) -> None:  # noqa: F811
    widget = answered(seen_host)
    slicer.app.layoutManager().sliceWidget("Green").hide()
    assert set(pictures(saved(widget, ask("report.html")))) == {"Red", "Yellow", "3D"}


def test_the_texts_in_the_corners_of_the_views_are_not_pictured(seen_host: Host, ask: Callable[[str], Path]) -> None:  # noqa: F811
    widget = answered(seen_host)
    page = ask("report.html")
    before = pictures(saved(widget, page))
    view = slicer.app.layoutManager().sliceWidget("Red").sliceView()
    bare = view.array()
    view.cornerAnnotation().SetText(2, NAMES[0])
    assert not np.array_equal(view.array(), bare)
    assert np.array_equal(pictures(saved(widget, page))["Red"], before["Red"])
    assert not np.array_equal(view.array(), bare)


def test_no_name_of_patient_or_series_is_in_page_or_table(seen_host: Host, ask: Callable[[str], Path]) -> None:  # noqa: F811
    widget = answered(seen_host)
    assert NAMES[2] in widget.ui.resultsTitleLabel.text
    page = ask("report.html")
    text = without_pictures(saved(widget, page)) + page.with_suffix(".csv").read_text(encoding="utf-8")
    assert SAMPLE in text
    assert not [part for name in NAMES for part in re.split(r"[\^_-]", name) if part in text]
    assert str(page.parent) not in text


def test_a_dialog_that_is_closed_writes_nothing(seen_host: Host, ask: Callable[[str], Path]) -> None:  # noqa: F811
    widget = answered(seen_host)
    folder, before = ask(""), widget.ui.heatStateLabel.text
    widget.ui.saveReportButton.click()
    assert list(folder.iterdir()) == []
    assert widget.ui.heatStateLabel.text == before


def test_a_report_that_cannot_be_written_is_told_in_a_sentence(seen_host: Host, ask: Callable[[str], Path]) -> None:  # noqa: F811
    widget = answered(seen_host)
    place = ask("a file")
    place.write_text("in the way", encoding="utf-8")
    ask("a file/report.html")
    widget.ui.saveReportButton.click()
    sentence = widget.ui.heatStateLabel.text
    assert sentence.endswith(".") and "\n" not in sentence
    assert not widget.ui.heatStateLabel.isHidden()


def test_a_saved_scene_gives_the_same_report(seen_host: Host, ask: Callable[[str], Path], tmp_path: Path) -> None:  # noqa: F811
    widget = answered(seen_host)
    page, bundle = ask("report.html"), tmp_path / "scene.mrb"
    before, table = saved(widget, page), page.with_suffix(".csv").read_bytes()
    slicer.util.saveScene(str(bundle))
    slicer.mrmlScene.Clear(0)
    assert not widget.ui.saveReportButton.enabled
    page.unlink()
    slicer.util.loadScene(str(bundle))
    after = saved(widget, page)
    assert "97.0 %" in after and "6, -9, 3" in after
    assert without_pictures(after) == without_pictures(before)
    assert page.with_suffix(".csv").read_bytes() == table
    assert set(pictures(after)) == set(pictures(before))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_no_text_of_the_table_is_a_formula(host: Host, tmp_path: Path, start: str) -> None:  # noqa: F811
    from AnyMC3DUI.report_page import save_report
    from AnyMC3DUI.results import ResultStore

    name, classes = f'{start}HYPERLINK("http://x")', {f"{start}1+1": 0.9, "plain": 0.1}
    answer = prediction(name, classes, spots={})
    answer["plugin"]["version"] = f"{start}2"
    results = ResultStore(slicer.mrmlScene).write(study(), {name: answer})
    save_report([results], ask=lambda: str(tmp_path / "report.html"), pictures={})
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["class"] for row in rows] == [f"'{start}1+1", "plain"]
    assert all(row["plugin"] == f"'{name}" and row["version"] == f"'{start}2" for row in rows)
    assert [float(row["probability"]) for row in rows] == [0.9, 0.1]
