"""How an answer and a plugin look: the bar, the decision in words, the card, and the filters of the list."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hosting import Host, host, prediction, qt  # noqa: F401
from plugin_files import write_plugin_file
from test_module import loaded, tick

SHARES = (0.0, 0.08, 0.3, 0.5, 0.77, 1.0)
MARK = (0, 255, 0)
EMPTY = (1, 2, 3)
UNDECIDED = (0, 0, 255)
COLOURS = {qt.QPalette.WindowText: MARK, qt.QPalette.Mid: EMPTY, qt.QPalette.Highlight: UNDECIDED}
PROVENANCE = {
    "data": "chest CT of two hospitals",
    "counts": {"train": {"no": 120, "yes": 80}},
    "test": {"auc": {"value": 0.913, "low": 0.871, "high": 0.948}},
    "validation": {"auc": {"value": 0.99, "low": 0.98, "high": 1.0}},
}


def bar(
    probability: float,
    *,
    threshold: float = 0.5,
    decision: bool = False,
    width: int = 110,
    ratio: float = 1.0,
) -> npt.NDArray[np.uint8]:
    """The picture of the bar, [rows, columns, RGBA], in colours that are told apart."""
    from AnyMC3DUI import answer_view
    from AnyMC3DUI.answer_rows import AnswerRow

    palette = qt.QPalette()
    for role, colour in COLOURS.items():
        palette.setColor(role, qt.QColor(*colour))
    row = AnswerRow("lesion", probability, threshold, decision, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_view, "BAR_WIDTH", width)
        image = answer_view.bar_picture(row, palette=palette, ratio=ratio).toImage()
    assert image.width() == round(width * ratio)
    colours = [[image.pixelColor(x, y).getRgb() for x in range(image.width())] for y in range(image.height())]
    return np.array(colours, dtype=np.uint8)


def line(picture: npt.NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """The colours along the middle of the bar."""
    return [tuple(colour[:3]) for colour in picture[len(picture) // 2].tolist()]


def marked(picture: npt.NDArray[np.uint8]) -> list[int]:
    """The columns in which the mark reaches beyond the bar."""
    top = picture[0]
    return [column for column, colour in enumerate(top.tolist()) if tuple(colour) == (*MARK, 255)]


@pytest.mark.parametrize("ratio", [1.0, 2.0])
@pytest.mark.parametrize("width", [60, 110, 200])
def test_the_bar_is_filled_up_to_the_probability(host: Host, width: int, ratio: float) -> None:  # noqa: F811
    for probability in SHARES:
        threshold = 0.0 if probability > 0.5 else 1.0  # its mark is out of the way of the end
        colours = line(bar(probability, threshold=threshold, width=width, ratio=ratio))
        filled = [column for column, colour in enumerate(colours) if colour == UNDECIDED]
        empty = [column for column, colour in enumerate(colours) if colour == EMPTY]
        end, mark = probability * width * ratio, 3 * ratio
        assert not filled or (filled[0] <= mark and filled[-1] == pytest.approx(end, abs=ratio + 1))
        assert not empty or (empty[0] == pytest.approx(end, abs=ratio + 1) and empty[-1] >= len(colours) - 1 - mark)
        assert len(filled) + len(empty) >= len(colours) - mark


@pytest.mark.parametrize("ratio", [1.0, 2.0])
@pytest.mark.parametrize("width", [60, 110, 200])
def test_a_mark_stands_at_the_threshold_and_nowhere_else(host: Host, width: int, ratio: float) -> None:  # noqa: F811
    for threshold in SHARES:
        picture = bar(0.4, threshold=threshold, width=width, ratio=ratio)
        columns = marked(picture)
        assert columns == list(range(columns[0], columns[0] + round(2 * ratio)))
        assert columns[0] == pytest.approx(threshold * width * ratio, abs=2 * ratio + 0.5)
        assert marked(picture[::-1]) == columns
        assert [column for column, colour in enumerate(line(picture)) if colour == MARK] == columns


def test_a_class_that_is_decided_for_has_another_colour(host: Host) -> None:  # noqa: F811
    yes, no = (line(bar(0.8, threshold=1.0, decision=decision))[10] for decision in (True, False))
    assert no == UNDECIDED
    assert yes not in (UNDECIDED, EMPTY, MARK)


def words_of(answer: dict[str, Any]) -> dict[str, str]:
    """The decision by class, as the table words it."""
    from AnyMC3DUI.answer_view import answer_widget

    widget = answer_widget(answer)
    grid = widget.layout()
    rows = [[grid.itemAtPosition(row, column).widget() for column in range(4)] for row in range(1, grid.rowCount())]
    return {name.text: decision.text for name, _, _, decision in rows}


@pytest.mark.parametrize(
    ("probability", "words"), [(0.97, "yes"), (0.52, "yes, uncertain"), (0.48, "no, uncertain"), (0.03, "no")]
)
def test_a_class_near_its_threshold_is_said_to_be_uncertain(host: Host, probability: float, words: str) -> None:  # noqa: F811
    assert words_of(prediction(probabilities={"normal": 0.0, "lesion": probability}))["lesion"] == words


def test_a_class_that_is_decided_for_below_its_threshold_is_said_to_be_uncertain(host: Host) -> None:  # noqa: F811
    answer = prediction(probabilities={"a": 0.4, "b": 0.2}, decisions={"a": True, "b": False})
    assert words_of(answer) == {"a": "yes, uncertain", "b": "no"}


def test_what_the_engine_says_of_the_doubt_counts(host: Host) -> None:  # noqa: F811
    answer = {**prediction(), "uncertain": {"lesion": True, "normal": False}}
    assert words_of(answer) == {"lesion": "yes, uncertain", "normal": "no"}


def test_the_bar_can_be_read_out(host: Host) -> None:  # noqa: F811
    from AnyMC3DUI.answer_view import answer_widget

    widget = answer_widget(
        prediction(probabilities={"normal": 0.28, "lesion": 0.72}, thresholds={"normal": 0.5, "lesion": 0.6})
    )
    names = [label.accessibleName for label in widget.findChildren(qt.QLabel) if label.accessibleName]
    assert len(names) == 2
    assert all(part in names[0] for part in ("lesion", "72.0 %", "60.0 %"))


# the card


def card_of(folder: Path, **fields: Any) -> str:
    """The text of a plugin's card as a person reads it."""
    from AnyMC3DUI.card_text import card_text
    from AnyMC3DUI.plugin_folder import read_card

    write_plugin_file(folder / "plugin.safetensors", **{"name": "Nodule", **fields})
    document = qt.QTextDocument()
    document.setHtml(card_text(read_card(folder / "plugin.safetensors")))
    return document.toPlainText()


def test_the_card_says_what_a_person_should_know_before_the_tick(host: Host, tmp_path: Path) -> None:  # noqa: F811
    text = card_of(
        tmp_path,
        provenance=PROVENANCE,
        licence="CC-BY-NC-4.0",
        intended_use="Research on chest CT, not for clinical use.",
        description="Is there a nodule?",
        anatomy="lung",
        modality="CT",
    )
    for words in (
        "Nodule",
        "Is there a nodule?",
        "Research on chest CT, not for clinical use.",
        "CC-BY-NC-4.0",
        "chest CT of two hospitals: 120 no, 80 yes",
        "no, yes",
        "lung, CT",
        "axial slices of image",
        "test_vit",
    ):
        assert words in text
    assert "Test AUC:" in text and "0.91 (0.87 to 0.95), test" in text
    assert "0.99" not in text


def test_an_auc_of_the_validation_is_not_called_one_of_a_test(host: Host, tmp_path: Path) -> None:  # noqa: F811
    text = card_of(tmp_path, provenance={"validation": PROVENANCE["validation"]})
    assert "Test AUC" not in text
    assert "0.99 (0.98 to 1.00), validation" in text


def test_what_a_plugin_does_not_tell_is_said_not_to_be_told(host: Host, tmp_path: Path) -> None:  # noqa: F811
    lines = card_of(tmp_path).replace("\n", " ")
    for label in ("AUC:", "Trained on:", "Licence:"):
        assert "not told" in lines.partition(label)[2][:12]


def test_what_a_plugin_says_of_itself_is_no_markup(host: Host, tmp_path: Path) -> None:  # noqa: F811
    bold = "<b>best</b> & only"
    text = card_of(tmp_path, name=bold, licence=bold, description=bold, provenance={"data": bold})
    assert text.count(bold) == 4
    assert html.escape(bold) not in text


# the filters


def names_in(widget: Any) -> list[str]:
    return [widget.ui.pluginList.item(row).text().partition("  ")[0] for row in range(widget.ui.pluginList.count)]


@pytest.fixture
def widget(host: Host) -> Any:  # noqa: F811
    """The module with a plugin for CT, one for MR, and that of the sample."""
    from AnyMC3DUI.settings import plugin_folder

    made = loaded(host)
    write_plugin_file(plugin_folder() / "ct.safetensors", name="Of CT", modality="CT", anatomy="lung")
    write_plugin_file(plugin_folder() / "mr.safetensors", name="Of MR", modality="MR", anatomy="head")
    made.desk.panel.refresh()
    return made


def test_the_modality_filter_hides_all_other_plugins(widget: Any) -> None:
    assert names_in(widget) == ["HeadLesionPhantom", "Of CT", "Of MR"]
    box = widget.ui.modalityFilterSelector
    assert [box.itemText(row) for row in range(box.count)] == ["Any modality", "CT", "MR", "phantom"]
    for modality, name in (("CT", "Of CT"), ("MR", "Of MR"), ("phantom", "HeadLesionPhantom")):
        box.setCurrentText(modality)
        assert names_in(widget) == [name]
        assert name in widget.ui.pluginCardBrowser.toPlainText()
    box.setCurrentIndex(0)
    assert len(names_in(widget)) == 3


def test_the_filters_hold_together_and_say_when_nothing_fits(widget: Any) -> None:
    widget.ui.modalityFilterSelector.setCurrentText("MR")
    widget.ui.anatomyFilterSelector.setCurrentText("lung")
    assert names_in(widget) == []
    assert "No plugin fits the filter." in widget.ui.pluginCardBrowser.toPlainText()


def test_a_hidden_plugin_stays_ticked(widget: Any) -> None:
    tick(widget, 1)
    widget.ui.modalityFilterSelector.setCurrentText("MR")
    assert [card.name for card in widget.desk.panel.ticked] == ["Of CT"]
    widget.ui.modalityFilterSelector.setCurrentIndex(0)
    assert widget.ui.pluginList.item(1).checkState() == qt.Qt.Checked
