"""The Threshold fold: from which probability on a class is decided for, and what that finds and misses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.operating_points import OperatingCurve, curve_of
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.spec import PluginSpec

from .plugin_folder import PluginCard

LOWEST, HIGHEST = 0.01, 0.99  # of the slider
# Below this many cases of a kind, one case more or less moves its share by more than three hundredths.
FEW_CASES = 30

Keep = Callable[[PluginCard, str, float], None]


class ThresholdPanel:
    """Shows the thresholds of one plugin; `keep` writes a class's into the file, and may raise AnyMC3DError."""

    def __init__(self, ui: Any, *, keep: Keep) -> None:
        self._ui, self._keep = ui, keep
        self._card: PluginCard | None = None
        self._spec: PluginSpec | None = None
        self._filling = self._free = False
        ui.pluginsClassSelector.connect("currentIndexChanged(int)", self._class_chosen)
        ui.pluginsThresholdSlider.connect("valueChanged(double)", self._moved)
        ui.pluginsApplyButton.connect("clicked()", self.keep)
        self.show(None)

    def show(self, card: PluginCard | None) -> None:
        """Show the thresholds in the file of a plugin, or that none is chosen; the class stays where it has it."""
        self._card, self._spec = card, None
        before = self._ui.pluginsClassSelector.currentText
        try:
            self._spec = read_spec(card.path) if card is not None else None
            trouble = "" if card is not None else _("Choose a plugin.")
        except AnyMC3DError as error:
            trouble = str(error)
        self._filling = True
        self._ui.pluginsClassSelector.clear()
        self._ui.pluginsClassSelector.addItems(list(self._spec.explained) if self._spec else [])
        self._ui.pluginsClassSelector.setCurrentIndex(max(0, self._ui.pluginsClassSelector.findText(before)))
        self._filling = False
        self._class_chosen()
        if trouble:
            self._ui.pluginsPointLabel.text = trouble

    def set_enabled(self, enabled: bool) -> None:
        """Whether a threshold may be kept now."""
        self._free = enabled
        self._update()

    @property
    def moved(self) -> bool:
        """Whether the slider stands elsewhere than the stored threshold."""
        return self._spec is not None and self._value != _on_slider(self._stored)

    def keep(self) -> None:
        """Write the threshold into the plugin, or say why that cannot be."""
        card, name, value = self._card, self._class_name, self._value
        try:
            self._keep(card, name, value)
        except AnyMC3DError as error:
            self._ui.pluginsPointLabel.text = str(error)

    @property
    def _class_name(self) -> str:
        return self._ui.pluginsClassSelector.currentText

    @property
    def _value(self) -> float:
        # The box behind the slider adds steps up, which leaves a trace in the last digits.
        return round(self._ui.pluginsThresholdSlider.value, 2)

    @property
    def _stored(self) -> float:
        return next((c.threshold for c in self._spec.classes if c.name == self._class_name), 0.5)

    def _class_chosen(self, _index: int = 0) -> None:
        if self._filling:
            return
        self._filling = True
        self._ui.pluginsThresholdSlider.value = _on_slider(self._stored) if self._spec else 0.5
        self._filling = False
        self._update()

    def _moved(self, _value: float) -> None:
        if not self._filling:
            self._update()

    def _update(self) -> None:
        self._ui.pluginsClassSelector.setEnabled(self._spec is not None and len(self._spec.explained) > 1)
        self._ui.pluginsThresholdSlider.setEnabled(self._spec is not None)
        self._ui.pluginsApplyButton.setEnabled(self.moved and self._free)
        if self._spec is not None:
            value = self._value if self.moved else self._stored
            self._ui.pluginsPointLabel.text = point_text(self._spec, self._class_name, value)


def point_text(spec: PluginSpec, class_name: str, threshold: float) -> str:
    """What a threshold of a class means, as far as the plugin tells."""
    stored = next(c.threshold for c in spec.classes if c.name == class_name)
    sentences = [_found_at(curve_of(spec, class_name), threshold, stored)]
    if spec.task_type == "multiclass":
        sentences.append(
            _(
                "This plugin answers with the most probable class: the threshold tells from where on the class's heat "
                "is shown, and when an answer counts as uncertain."
            )
        )
    return " ".join(sentences)


def _found_at(curve: OperatingCurve | None, threshold: float, stored: float) -> str:
    if curve is None:
        words = _("This plugin holds no validation curve. Stored threshold {stored}.")
        return words.format(stored=_digits(stored))
    point = curve.at(threshold)
    words = _(
        "At {threshold}: sensitivity {sensitivity:.2f}, specificity {specificity:.2f} ({cases}); "
        "stored threshold {stored}."
    )
    told = words.format(
        threshold=_digits(threshold),
        sensitivity=point.sensitivity,
        specificity=point.specificity,
        cases=_cases(curve),
        stored=_digits(stored),
    )
    return f"{told} {_note(curve)}".strip()


def _cases(curve: OperatingCurve) -> str:
    if curve.positives is None or curve.negatives is None:
        return _("validation")
    words = _("validation: {positives} with, {negatives} without")
    return words.format(positives=curve.positives, negatives=curve.negatives)


def _note(curve: OperatingCurve) -> str:
    if curve.positives is None or curve.negatives is None:
        return _("On how many cases is not told.")
    return _("Figures on so few cases are rough.") if min(curve.positives, curve.negatives) < FEW_CASES else ""


def _on_slider(threshold: float) -> float:
    return min(max(round(threshold, 2), LOWEST), HIGHEST)


def _digits(threshold: float) -> str:
    """Two decimals, and more where the threshold has more, as one that was fitted."""
    short = f"{threshold:.2f}"
    return short if abs(float(short) - threshold) < 5e-5 else f"{threshold:.4f}"
