"""What a prediction leaves behind: pictures that show what they should, and files that say no more than they should."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pytest
from volumes import in_every_order, rotation, study

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.geometry import transform_points
from AnyMC3DLib.heatmap import DISPLAY_THRESHOLD, hot_spots
from AnyMC3DLib.picture import NOTICE, draw_picture, heat_colours, shown_class
from AnyMC3DLib.planes import plane_through, position_words
from AnyMC3DLib.prediction import Prediction, RelevanceMap, SliceWeights, Study
from AnyMC3DLib.report import prediction_table, write_report
from AnyMC3DLib.sheet import WIDTH, fitted, text_width, wrapped
from AnyMC3DLib.spec import BackboneRef, ClassSpec, PluginSpec, PreprocessingSpec, ViewSpec
from AnyMC3DLib.volume import LPS_TO_RAS, Volume

LONG = "Haemorrhage, intraparenchymal, acute or subacute, with or without extension into the ventricles " * 2
SPOT = (4, 6, 9)  # (k, j, i) of the hottest voxel of the study
RIGHT_OF_THE_LEGEND = 330  # pixels; the first plane is left of it too, the others are not
HEAT_IS_YELLOW = ((0.8, 0.45, 0.0), (1.01, 1.01, 0.7))


def answer(
    volume: Volume,
    probabilities: dict[str, float],
    *,
    task: str = "binary",
    views: tuple[ViewSpec, ...] = (ViewSpec(name="axial"),),
    density: float = 300.0,
    thresholds: dict[str, float] | None = None,
    **fields: object,
) -> Prediction:
    """A prediction of `volume` made by hand: each view has the volume's own grid, with heat about SPOT."""
    classes = tuple(ClassSpec(name=n, threshold=(thresholds or {}).get(n, 0.5)) for n in probabilities)
    spec = PluginSpec(
        name="Demo", task_type=task, classes=classes, views=views, backbone=BackboneRef(id="test_vit"), licence="CC0"
    )
    reach = [np.abs(np.arange(n) - centre) for n, centre in zip(volume.grid, SPOT, strict=True)]
    share = density * np.exp(-0.5 * (reach[0][:, None, None] + reach[1][:, None] + reach[2]))
    maps = {
        view.name: RelevanceMap(None, np.stack([share.astype(np.float32)] * spec.logits), volume.ijk_to_ras)
        for view in views
    }
    middle = (np.array(volume.grid[::-1]) - 1) / 2
    centres = transform_points(volume.ijk_to_ras, np.stack([np.array([*middle[:2], k]) for k in range(volume.grid[0])]))
    weights = np.arange(1, volume.grid[0] + 1, dtype=np.float32)
    best = max(probabilities, key=lambda name: probabilities[name])
    above = {c.name: probabilities[c.name] >= c.threshold for c in classes}
    whole = Prediction(
        spec=spec,
        probabilities=probabilities,
        decisions=above if task == "multilabel" else {name: name == best for name in probabilities},
        slices={view.name: SliceWeights(weights / weights.sum(), centres, "axial") for view in views},
        view_weights={view.name: 1 / len(views) for view in views},
        maps=maps,
        hot_spots={name: hot_spots([(share.astype(np.float32), volume.ijk_to_ras)]) for name in spec.explained},
        warnings=[],
        provenance={"backbone": "test_vit", "backbone_digest": "ab" * 32, "timings": {"network_s": 1.5}},
    )
    return dataclasses.replace(whole, **fields)


def respecified(prediction: Prediction, **fields: object) -> Prediction:
    """The prediction of a plugin whose card says something else."""
    return dataclasses.replace(prediction, spec=dataclasses.replace(prediction.spec, **fields))


def pixels(png: bytes) -> npt.NDArray[np.float32]:
    """A PNG as RGB [rows, columns, 3] in [0, 1]."""
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def hot_pixels(png: bytes) -> int:
    """How many pixels have the colour of strong heat, which no other part of a picture without bars has."""
    low, high = HEAT_IS_YELLOW
    image = pixels(png)[:, RIGHT_OF_THE_LEGEND:]
    return int(np.all((image >= low) & (image < high) & (image[..., :1] - image[..., 2:] > 0.2), axis=2).sum())


def everything(folder: Path) -> str:
    """The text of every file in the folder, without the pictures."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()))
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return study("oblique")


@pytest.fixture
def found(volume: Volume) -> Prediction:
    return answer(volume, {"normal": 0.1, "lesion": 0.9})


@pytest.fixture
def images(volume: Volume) -> Study:
    return Study({"image": volume})


# The table


def test_the_table_has_a_row_a_class_with_its_threshold_and_decision(volume: Volume) -> None:
    given = {"a": 0.2, "b": 0.7, "c": 0.4}
    rows = prediction_table(answer(volume, given, task="multilabel", thresholds={"a": 0.1, "c": 0.6}))
    assert [dataclasses.astuple(row) for row in rows] == [
        ("a", 0.2, 0.1, True),
        ("b", 0.7, 0.5, True),
        ("c", 0.4, 0.6, False),
    ]


def test_the_negative_of_a_binary_task_has_what_the_positives_threshold_leaves(volume: Volume) -> None:
    rows = prediction_table(answer(volume, {"normal": 0.65, "lesion": 0.35}, thresholds={"lesion": 0.3}))
    assert [row.threshold for row in rows] == [0.7, 0.3]


# The picture


def test_the_picture_is_a_png_of_the_promised_width(found: Prediction, images: Study) -> None:
    png = draw_picture(found, images)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert pixels(png).shape[1] == WIDTH == 1280
    assert pixels(png).shape[0] > 600


def test_heat_is_drawn_where_a_class_reaches_its_threshold_and_nowhere_else(volume: Volume, images: Study) -> None:
    reached = answer(volume, {"normal": 0.1, "lesion": 0.9})
    below = answer(volume, {"normal": 0.9, "lesion": 0.1})
    assert hot_pixels(draw_picture(reached, images, with_probabilities=False)) > 500
    assert hot_pixels(draw_picture(below, images, with_probabilities=False)) == 0


def test_no_heat_is_drawn_where_no_place_reaches_the_display_threshold(volume: Volume, images: Study) -> None:
    faint = answer(volume, {"normal": 0.1, "lesion": 0.9}, density=9.0)
    assert hot_pixels(draw_picture(faint, images, with_probabilities=False)) == 0


def test_heat_is_transparent_below_the_display_threshold_and_never_hides_the_anatomy() -> None:
    colours = heat_colours(np.array([0.0, DISPLAY_THRESHOLD - 1e-6, DISPLAY_THRESHOLD, 1.0]))
    assert colours[:2, 3] == pytest.approx([0, 0])
    assert np.all(colours[2:, 3] > 0.3)
    assert np.all(colours[:, 3] < 0.85)


def test_a_class_shown_by_its_name_has_its_own_heat(volume: Volume, images: Study) -> None:
    both = answer(volume, {"a": 0.9, "b": 0.2}, task="multilabel")
    assert hot_pixels(draw_picture(both, images, class_name="a", with_probabilities=False)) > 500
    assert hot_pixels(draw_picture(both, images, class_name="b", with_probabilities=False)) == 0


def test_the_class_shown_first_is_the_most_probable_decided_or_the_nearest_to_its_threshold(volume: Volume) -> None:
    assert shown_class(answer(volume, {"a": 0.6, "b": 0.8, "c": 0.7}, task="multilabel")) == "b"
    below = answer(volume, {"a": 0.3, "b": 0.2}, task="multilabel", thresholds={"a": 0.9, "b": 0.3})
    assert shown_class(below) == "b"
    assert shown_class(answer(volume, {"normal": 0.9, "lesion": 0.1})) == "lesion"


def test_a_class_without_a_logit_is_refused(found: Prediction, images: Study) -> None:
    with pytest.raises(InputError, match="no picture of a class 'normal': choose lesion"):
        draw_picture(found, images, class_name="normal")


def test_a_study_that_lacks_the_image_is_refused(found: Prediction, volume: Volume) -> None:
    with pytest.raises(InputError, match="needs an image 'image'"):
        draw_picture(found, Study({"other": volume}))


def test_a_prediction_without_maps_has_a_picture_without_heat(found: Prediction, images: Study) -> None:
    bare = dataclasses.replace(found, maps={}, hot_spots={})
    assert hot_pixels(draw_picture(bare, images, with_probabilities=False)) == 0


@pytest.mark.parametrize("count", [1, 18])
def test_nothing_runs_into_the_margin_however_long_the_names(volume: Volume, images: Study, count: int) -> None:
    names = {f"{n} $x_1$ {LONG}": 0.9 - 0.05 * n for n in range(count)}
    warned = answer(volume, names, task="multilabel", warnings=[LONG * 3, "W" * 500, *["again"] * 7])
    image = pixels(draw_picture(respecified(warned, name=LONG, version=LONG), images, title=LONG))
    for edge in (image[:12], image[-12:], image[:, :12], image[:, -12:]):
        assert np.all(edge == 1)


@pytest.mark.parametrize("shape", [(1, 40, 60), (1, 40, 60, 3), (2, 60, 40), (60, 3, 2)])
def test_pictures_and_thin_volumes_can_be_drawn(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    flat = Volume(array, LPS_TO_RAS @ np.diag([1.0, 1.0, 5.0, 1.0]) if shape[0] > 1 else LPS_TO_RAS)
    image = pixels(draw_picture(answer(flat, {"normal": 0.1, "lesion": 0.9}), Study({"image": flat})))
    assert image.shape[1] == WIDTH
    assert np.all(image[:, :12] == 1)


def test_every_view_is_drawn_on_its_own_image(volume: Volume) -> None:
    views = tuple(
        ViewSpec(name=f"v{n}", source=f"series{n}", preprocessing=PreprocessingSpec(axis=axis))
        for n, axis in enumerate(("axial", "coronal", "sagittal"))
    )
    several = answer(volume, {"normal": 0.1, "lesion": 0.9}, views=views)
    images = {view.source: volume for view in views}
    with_all = draw_picture(several, Study(images), with_probabilities=False)
    dark = Volume(volume.array * 0 + np.arange(volume.array.shape[2]), volume.ijk_to_ras)
    with_another = draw_picture(several, Study({**images, "series1": dark}), with_probabilities=False)
    assert pixels(with_all).shape == pixels(with_another).shape
    columns = np.flatnonzero(np.any(pixels(with_all) != pixels(with_another), axis=(0, 2)))
    assert columns.min() > WIDTH / 5
    assert columns.max() < WIDTH * 4 / 5


# Planes


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_a_plane_is_the_same_in_whatever_order_the_volume_is_stored(volume: Volume, axis: str) -> None:
    point = transform_points(volume.ijk_to_ras, SPOT[::-1])
    expected = plane_through(volume, point, axis=axis)
    for other in in_every_order(volume):
        plane = plane_through(other, point, axis=axis)
        assert np.array_equal(plane.image.array, expected.image.array)
        assert np.allclose(plane.image.ijk_to_ras, expected.image.ijk_to_ras)
        assert plane.letters == expected.letters


def test_a_plane_shows_the_voxel_at_its_point(volume: Volume) -> None:
    array = volume.array * 0
    array[SPOT] = 1
    point = transform_points(volume.ijk_to_ras, SPOT[::-1])
    for axis in ("axial", "coronal", "sagittal"):
        plane = plane_through(Volume(array, volume.ijk_to_ras), point, axis=axis)
        _, row, column = np.unravel_index(np.argmax(plane.image.array), plane.image.array.shape)
        assert plane.image.array.max() == 1
        expected = ((column + 0.5) * plane.image.spacing[0], (row + 0.5) * plane.image.spacing[1])
        assert plane.at(point) == pytest.approx(expected)


def test_the_letters_are_those_of_a_radiologists_picture() -> None:
    straight = study("straight")
    centre = straight.corners().mean(axis=0)
    letters = {axis: plane_through(straight, centre, axis=axis).letters for axis in ("axial", "coronal", "sagittal")}
    assert letters == {
        "axial": ("R", "L", "A", "P"),
        "coronal": ("R", "L", "S", "I"),
        "sagittal": ("A", "P", "S", "I"),
    }


def test_an_oblique_edge_bears_two_letters() -> None:
    straight = study("straight")
    turned = Volume(straight.array, rotation(about_s=25) @ straight.ijk_to_ras)
    assert plane_through(turned, turned.corners().mean(axis=0), axis="axial").letters == ("RA", "LP", "AL", "PR")


def test_a_picture_without_a_place_in_a_patient_has_no_letters() -> None:
    grey = np.arange(600, dtype=np.uint8).reshape(1, 20, 30)
    assert plane_through(Volume(grey, LPS_TO_RAS), (0, 0, 0), axis="axial").letters is None
    placed = Volume(grey, LPS_TO_RAS @ np.diag([0.5, 0.5, 4.0, 1.0]))
    assert plane_through(placed, (0, 0, 0), axis="axial").letters == ("R", "L", "A", "P")
    colour = Volume(np.stack([grey] * 3, axis=3), placed.ijk_to_ras)
    assert plane_through(colour, (0, 0, 0), axis="axial").letters is None


def test_a_point_beyond_the_volume_gives_its_last_slice(volume: Volume) -> None:
    beyond = transform_points(volume.ijk_to_ras, (3, 3, 1000))
    assert np.array_equal(plane_through(volume, beyond, axis="axial").image.array[0, ::-1, ::-1], volume.array[-1])


def test_positions_are_said_with_the_letter_of_their_side() -> None:
    assert position_words((-24.5, 16.04, -31.7)) == ("L 24.5", "A 16.0", "I 31.7")


# Text


def test_text_is_cut_to_its_room_and_no_shorter_than_that() -> None:
    cut = fitted(LONG, room=300, size=10)
    assert cut.endswith("…")
    assert 270 < text_width(cut, size=10) <= 300
    assert fitted("a\n b", room=300, size=10) == "a b"


def test_text_is_wrapped_to_its_room_without_losing_a_word() -> None:
    lines = wrapped(LONG, room=300, size=10)
    assert " ".join(lines).split() == LONG.split()
    assert all(text_width(line, size=10) <= 300 for line in lines)


# The report


def test_the_report_is_a_page_a_table_and_data(tmp_path: Path, found: Prediction, images: Study) -> None:
    page = write_report(tmp_path / "new" / "folder", predictions={"Demo": found}, study=images, title="Case 1")
    assert page == tmp_path / "new" / "folder" / "report.html"
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "predictions.csv", "predictions.json"}
    text = page.read_text(encoding="utf-8")
    for expected in ("Case 1", NOTICE, "Demo", "lesion", "0.900", "CC0", "test_vit", "ab" * 32, "<details>"):
        assert expected in text


def test_the_page_holds_its_pictures_and_asks_for_nothing(tmp_path: Path, found: Prediction, images: Study) -> None:
    card = respecified(found, description="See https://example.org/card.", licence="https://example.org/licence")
    text = write_report(tmp_path, predictions={"Demo": card}, study=images, title="x").read_text(encoding="utf-8")
    assert text.count('src="data:image/png;base64,') == 1
    assert set(re.findall(r"\b(?:src|href|action|srcset)=(.{6})", text)) == {'"data:', '"#plug'}
    assert not re.search(r"url\(|@import|<script|<link|<iframe", text)
    assert "default-src 'none'" in text


def test_names_are_text_and_never_markup(tmp_path: Path, volume: Volume, images: Study) -> None:
    evil = "<script>alert('x')</script>\"><img src=x onerror=1>"
    prediction = answer(volume, {"normal": 0.1, evil: 0.9}, warnings=[evil], provenance={evil: evil})
    card = respecified(
        prediction, name=evil, version=evil, description=evil, licence=evil, provenance={evil: [evil, {"a": evil}]}
    )
    text = write_report(tmp_path, predictions={evil: card}, study=images, title=evil).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;" in text


def test_the_table_file_has_one_row_a_plugin_and_class(tmp_path: Path, volume: Volume, images: Study) -> None:
    first = answer(volume, {"normal": 0.25, "lesion": 0.75})
    second = respecified(answer(volume, {'a, "b"': 0.125, "c": 0.5}, task="multilabel"), name="Other", version="2")
    write_report(tmp_path, predictions={"Demo": first, "Other": second}, study=images, title="x")
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["plugin", "version", "class", "probability", "threshold", "decision"],
        ["Demo", "1", "normal", "0.25", "0.5", "no"],
        ["Demo", "1", "lesion", "0.75", "0.5", "yes"],
        ["Other", "2", 'a, "b"', "0.125", "0.5", "no"],
        ["Other", "2", "c", "0.5", "0.5", "yes"],
    ]


def test_a_spreadsheet_reads_no_name_as_a_formula(tmp_path: Path, volume: Volume, images: Study) -> None:
    prediction = answer(volume, {"-ve": 0.1, "=1+1": 0.9})
    write_report(tmp_path, predictions={"Demo": prediction}, study=images, title="x")
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        assert [row[2] for row in csv.reader(stream)] == ["class", "'-ve", "'=1+1"]
    data = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert list(data["predictions"]["Demo"]["probabilities"]) == ["-ve", "=1+1"]


def test_the_data_file_holds_the_prediction(tmp_path: Path, found: Prediction, images: Study) -> None:
    write_report(tmp_path, predictions={"Demo": found}, study=images, title="Größe 5 µm")
    data = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert data["title"] == "Größe 5 µm"
    assert data["notice"] == NOTICE
    assert data["predictions"]["Demo"] == json.loads(json.dumps(found.to_dict()))


def test_warnings_are_in_plain_sight(tmp_path: Path, volume: Volume, images: Study) -> None:
    warned = answer(volume, {"normal": 0.1, "lesion": 0.9}, warnings=["Uncertain: something is odd."])
    text = write_report(tmp_path, predictions={"Demo": warned}, study=images, title="x").read_text(encoding="utf-8")
    assert text.index("Uncertain: something is odd.") < text.index("data:image/png") < text.index("<details>")


def test_hot_spots_are_listed_only_where_heat_is_shown(tmp_path: Path, volume: Volume, images: Study) -> None:
    spot = "".join(f'<td class="number">{x:.1f}</td>' for x in transform_points(volume.ijk_to_ras, SPOT[::-1]))
    for probability, listed in ((0.9, True), (0.1, False)):
        prediction = answer(volume, {"normal": 1 - probability, "lesion": probability})
        page = write_report(tmp_path, predictions={"Demo": prediction}, study=images, title="x")
        assert (spot in page.read_text(encoding="utf-8")) == listed


def test_several_findings_have_a_picture_each(tmp_path: Path, volume: Volume, images: Study) -> None:
    several = answer(volume, {"a": 0.9, "b": 0.2, "c": 0.6}, task="multilabel")
    text = write_report(tmp_path, predictions={"Demo": several}, study=images, title="x").read_text(encoding="utf-8")
    assert re.findall(r'<img alt="[^"]* class (\w),', text) == ["a", "c"]


def test_no_file_says_where_on_the_machine_anything_lay(tmp_path: Path, volume: Volume) -> None:
    cases = {
        "/home/jane doe/cases/x.csv": "x.csv",
        "C:\\Users\\Jane\\x.csv": "x.csv",
        "\\\\server\\jane\\x.csv": "x.csv",
        "from '/home/jane doe/x.csv' and /data/jane/y.nii.gz, 3 mm/s": "from 'x.csv' and y.nii.gz, 3 mm/s",
        "sensitivity / specificity and/or 10/20": "sensitivity / specificity and/or 10/20",
    }
    named = Volume(volume.array, volume.ijk_to_ras, name="'Doe_Jane.nii.gz'")
    told = list(cases)
    prediction = answer(named, {"normal": 0.1, "lesion": 0.9}, warnings=told, provenance={"a": {"b": told}})
    card = respecified(prediction, provenance={"manifest": told})
    write_report(tmp_path, predictions={"Demo": card}, study=Study({"image": named}), title=told[0])
    data = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert data["title"] == "x.csv"
    assert data["predictions"]["Demo"]["warnings"] == list(cases.values())
    assert "jane" not in everything(tmp_path).lower()


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path: Path, found: Prediction, images: Study) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"Cannot write '.*': .*; choose another place\."):
        write_report(tmp_path / "file", predictions={"Demo": found}, study=images, title="x")


def test_a_report_that_fails_leaves_the_folder_as_it_was(tmp_path: Path, found: Prediction, volume: Volume) -> None:
    with pytest.raises(InputError, match="needs an image"):
        write_report(tmp_path / "new", predictions={"Demo": found}, study=Study({"other": volume}), title="x")
    assert not (tmp_path / "new").exists()


def test_no_prediction_is_no_report(tmp_path: Path, images: Study) -> None:
    with pytest.raises(InputError, match="no prediction to report"):
        write_report(tmp_path, predictions={}, study=images, title="x")
