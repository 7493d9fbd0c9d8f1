"""The Threshold fold: what a threshold means on the validation cases, and keeping another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hosting import REPOSITORY, Host, host, slicer  # noqa: F401
from test_plugin_folder import plugin_file

from AnyMC3DLib.errors import InputError

LESION = [[0.0, 1.0, 0.0], [0.3, 0.95, 0.6], [0.42, 0.91, 0.84], [0.5, 0.7, 0.9], [0.9, 0.1, 1.0]]
BINARY = {"task_type": "binary", "classes": [{"name": "normal"}, {"name": "lesion"}]}


def measured(curves: dict[str, Any], counts: dict[str, Any]) -> dict[str, Any]:
    """Provenance with what was found at each threshold."""
    return {"validation": {"operating_points": curves, "operating_cases": counts}}


class Fold:
    """The panel over the form, and what it was asked to keep."""

    def __init__(self, folder: Path) -> None:
        from AnyMC3DUI.threshold_panel import ThresholdPanel

        form = slicer.util.loadUI(str(REPOSITORY / "Resources" / "UI" / "AnyMC3DPlugins.ui"))
        self.form, self.ui = form, slicer.util.childWidgetVariables(form)
        self.folder, self.kept, self.refuses = folder, [], ""
        self.panel = ThresholdPanel(self.ui, keep=self.keep)
        self.panel.set_enabled(True)

    def keep(self, card: Any, class_name: str, value: float) -> None:
        if self.refuses:
            raise InputError(self.refuses)
        self.kept.append((card.name, class_name, value))

    def show(self, **fields: Any) -> None:
        from AnyMC3DUI.plugin_folder import read_card

        self.panel.show(read_card(plugin_file(self.folder / "plugin.safetensors", **fields)))

    @property
    def text(self) -> str:
        return self.ui.pluginsPointLabel.text

    @property
    def slider(self) -> Any:
        return self.ui.pluginsThresholdSlider


@pytest.fixture
def fold(host: Host, tmp_path: Path) -> Fold:  # noqa: F811
    return Fold(tmp_path)


def lesion(positives: int | None = 40, negatives: int | None = 76, **fields: Any) -> dict[str, Any]:
    counts = {"positives": positives, "negatives": negatives}
    return {**BINARY, "provenance": measured({"lesion": LESION}, {"lesion": counts}), **fields}


def test_a_threshold_says_what_it_found_and_missed_in_validation(fold: Fold) -> None:
    fold.show(**lesion(22))
    assert fold.text == (
        "At 0.50: sensitivity 0.70, specificity 0.90 (validation: 22 with, 76 without); stored threshold 0.50. "
        "Figures on so few cases are rough."
    )
    fold.slider.value = 0.42
    assert fold.text.startswith("At 0.42: sensitivity 0.91, specificity 0.84 ") and "threshold 0.50." in fold.text


def test_figures_on_thirty_cases_of_either_kind_go_without_a_warning(fold: Fold) -> None:
    fold.show(**lesion(30, 30))
    assert "rough" not in fold.text
    fold.show(**lesion(300, 29))
    assert "rough" in fold.text


def test_a_curve_of_which_the_cases_are_not_told_says_so(fold: Fold) -> None:
    fold.show(**lesion(None))
    assert "(validation)" in fold.text and "On how many cases is not told." in fold.text


def test_a_plugin_without_a_curve_says_so(fold: Fold) -> None:
    fold.show(**BINARY)
    assert fold.text == "This plugin holds no validation curve. Stored threshold 0.50."
    fold.slider.value = 0.3
    assert fold.ui.pluginsApplyButton.enabled


def test_a_threshold_is_kept_once_it_was_moved(fold: Fold) -> None:
    fold.show(**lesion())
    assert not fold.ui.pluginsApplyButton.enabled
    fold.slider.value = 0.42
    assert fold.ui.pluginsApplyButton.enabled
    fold.slider.value = 0.5
    assert not fold.ui.pluginsApplyButton.enabled
    fold.slider.value = 0.43
    fold.ui.pluginsApplyButton.click()
    assert fold.kept == [("Knee", "lesion", 0.43)]


def test_a_threshold_that_was_fitted_is_shown_as_it_is(fold: Fold) -> None:
    fold.show(**lesion(classes=[{"name": "normal", "threshold": 0.5837}, {"name": "lesion", "threshold": 0.4163}]))
    # The slider has two decimals, on which 0.42 would be another point of the curve.
    assert fold.slider.value == pytest.approx(0.42)
    assert "At 0.4163: sensitivity 0.95" in fold.text and "stored threshold 0.4163" in fold.text
    assert not fold.ui.pluginsApplyButton.enabled


def test_what_cannot_be_written_is_told_and_the_slider_stays(fold: Fold) -> None:
    fold.show(**lesion())
    fold.slider.value, fold.refuses = 0.2, "The disk is full."
    fold.ui.pluginsApplyButton.click()
    assert fold.text == "The disk is full." and fold.slider.value == pytest.approx(0.2)


def test_nothing_is_kept_while_the_file_is_in_use(fold: Fold) -> None:
    fold.show(**lesion())
    fold.slider.value = 0.2
    fold.panel.set_enabled(False)
    assert not fold.ui.pluginsApplyButton.enabled
    fold.panel.set_enabled(True)
    assert fold.ui.pluginsApplyButton.enabled


def test_a_binary_plugin_has_the_threshold_of_its_positive_class_alone(fold: Fold) -> None:
    fold.show(**lesion())
    box = fold.ui.pluginsClassSelector
    assert [box.itemText(number) for number in range(box.count)] == ["lesion"] and not box.enabled


def test_each_class_of_a_multilabel_plugin_has_its_own_threshold(fold: Fold) -> None:
    classes = [{"name": "tear", "threshold": 0.3}, {"name": "oedema", "threshold": 0.8}]
    curves = measured({"oedema": LESION}, {"oedema": {"positives": 50, "negatives": 50}})
    fold.show(classes=classes, provenance=curves)
    assert fold.slider.value == pytest.approx(0.3) and "no validation curve" in fold.text
    fold.ui.pluginsClassSelector.setCurrentText("oedema")
    assert fold.slider.value == pytest.approx(0.8) and "At 0.80: sensitivity 0.70" in fold.text
    fold.slider.value = 0.95
    fold.ui.pluginsApplyButton.click()
    assert fold.kept == [("Knee", "oedema", 0.95)]
    fold.show(classes=classes, provenance=curves)
    assert fold.ui.pluginsClassSelector.currentText == "oedema"


def test_a_multiclass_plugin_says_that_it_answers_with_the_most_probable_class(fold: Fold) -> None:
    fold.show(task_type="multiclass", classes=[{"name": name} for name in ("none", "mild", "severe")])
    assert "most probable class" in fold.text
    fold.show(**lesion())
    assert "most probable class" not in fold.text


def test_without_a_plugin_nothing_can_be_moved(fold: Fold) -> None:
    fold.show(**lesion())
    fold.panel.show(None)
    assert fold.text == "Choose a plugin." and not fold.slider.enabled
    assert not fold.ui.pluginsApplyButton.enabled and fold.ui.pluginsClassSelector.count == 0


def test_a_file_that_went_is_told(fold: Fold) -> None:
    from AnyMC3DUI.plugin_folder import read_card

    card = read_card(plugin_file(fold.folder / "gone.safetensors", **BINARY))
    card.path.unlink()
    fold.panel.show(card)
    assert "There is no plugin file" in fold.text and not fold.slider.enabled
