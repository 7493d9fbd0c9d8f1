"""The `ctk` module: plain stand-ins for the widgets that the panel uses, empty ones for all other names."""

from __future__ import annotations

import qt

HEADER_PADDING = 10


class ctkCollapsibleButton(qt.QWidget):  # noqa: N801 - the names are CTK's here and below
    """A section with a header; a click on it folds the section."""

    contentsCollapsed = qt.Signal(bool)  # noqa: N815
    toggled = qt.Signal(bool)

    def __init__(self, *arguments: object) -> None:
        title = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        super().__init__(next((value for value in arguments if isinstance(value, qt.QWidget)), None))
        self._text, self._collapsed = title, False
        self._hidden_by_fold: list[qt.QWidget] = []
        self.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Preferred)
        self._margins()

    def _header(self) -> int:
        return self.fontMetrics().height() + HEADER_PADDING

    def _margins(self) -> None:
        self.setContentsMargins(0, self._header(), 0, 0)

    def _get_text(self) -> str:
        return self._text

    def setText(self, text: str) -> None:  # noqa: N802
        """The title in the header."""
        self._text = text
        self.update()

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:  # noqa: N802
        """Fold or unfold."""
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        if collapsed:
            children = [child for child in self.children() if isinstance(child, qt.QWidget)]
            self._hidden_by_fold = [child for child in children if not child.isHidden()]
        for child in self._hidden_by_fold:
            child.setVisible(not collapsed)
        self.setMaximumHeight(self._header() if collapsed else 16777215)
        self.updateGeometry()
        self.update()
        self.contentsCollapsed.emit(collapsed)
        self.toggled.emit(not collapsed)

    def mousePressEvent(self, event: qt.QMouseEvent) -> None:  # noqa: N802
        if event.position().y() <= self._header():
            self.setCollapsed(not self._collapsed)

    def minimumSizeHint(self) -> qt.QSize:  # noqa: N802
        hint = qt.QWidget.minimumSizeHint(self)
        return qt.QSize(hint.width(), self._header()) if self._collapsed else hint

    def sizeHint(self) -> qt.QSize:  # noqa: N802
        hint = qt.QWidget.sizeHint(self)
        return qt.QSize(max(hint.width(), 0), self._header()) if self._collapsed else hint

    def paintEvent(self, event: qt.QPaintEvent) -> None:  # noqa: N802
        painter = qt.QStylePainter(self)
        option = qt.QStyleOptionButton()
        option.initFrom(self)
        option.rect = qt.QRect(0, 0, self.width, self._header() - 2)
        option.state |= qt.QStyle.State_Raised
        painter.drawControl(qt.QStyle.CE_PushButtonBevel, option)
        arrow = qt.QStyleOption()
        arrow.initFrom(self)
        side = self.fontMetrics().height() // 2
        arrow.rect = qt.QRect(8, (self._header() - 2 - side) // 2, side, side)
        kind = qt.QStyle.PE_IndicatorArrowRight if self._collapsed else qt.QStyle.PE_IndicatorArrowDown
        painter.drawPrimitive(kind, arrow)
        title = qt.QRect(8 + side + 8, 0, self.width - side - 24, self._header() - 2)
        flags = qt.Qt.AlignVCenter | qt.Qt.AlignLeft
        painter.drawItemText(title, flags, self.palette, self.enabled, self._text, qt.QPalette.ButtonText)
        painter.end()

    text = qt.Property(str, _get_text, setText)
    collapsed = qt.Property(bool, _get_collapsed, setCollapsed)


class ctkCollapsibleGroupBox(ctkCollapsibleButton):  # noqa: N801
    """As the button, with a title."""

    title = qt.Property(str, ctkCollapsibleButton._get_text, ctkCollapsibleButton.setText)


class ctkSliderWidget(qt.QWidget):  # noqa: N801
    """A slider beside a spin box, for real numbers."""

    valueChanged = qt.Signal(float)  # noqa: N815
    valueIsChanging = qt.Signal(float)  # noqa: N815

    def __init__(self, parent: qt.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = qt.QSlider(qt.Qt.Horizontal, self)
        self._box = qt.QDoubleSpinBox(self)
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._tracking = True
        self.setMaximum(99.0)
        self._slider.connect("valueChanged(int)", self._slid)
        self._box.connect("valueChanged(double)", self._entered)

    def _scale(self) -> float:
        return 10.0**self._box.decimals

    def _slid(self, position: int) -> None:
        self._box.setValue(position / self._scale())

    def _entered(self, value: float) -> None:
        self._slider.blockSignals(True)
        self._slider.setValue(round(value * self._scale()))
        self._slider.blockSignals(False)
        self.valueIsChanging.emit(value)
        self.valueChanged.emit(value)

    def _ranged(self) -> None:
        value = self._box.value
        self._slider.blockSignals(True)
        scale = self._scale()
        self._slider.setRange(round(self._box.minimum * scale), round(self._box.maximum * scale))
        self._slider.setSingleStep(max(1, round(self._box.singleStep * scale)))
        self._slider.setPageStep(max(1, round(10 * self._box.singleStep * scale)))
        self._slider.setValue(round(value * scale))
        self._slider.blockSignals(False)

    def _get_value(self) -> float:
        return self._box.value

    def setValue(self, value: float) -> None:  # noqa: N802
        """Move slider and box."""
        self._box.setValue(value)

    def _get_minimum(self) -> float:
        return self._box.minimum

    def setMinimum(self, value: float) -> None:  # noqa: N802
        """The lowest value."""
        self._box.setMinimum(value)
        self._ranged()

    def _get_maximum(self) -> float:
        return self._box.maximum

    def setMaximum(self, value: float) -> None:  # noqa: N802
        """The highest value."""
        self._box.setMaximum(value)
        self._ranged()

    def _get_step(self) -> float:
        return self._box.singleStep

    def setSingleStep(self, value: float) -> None:  # noqa: N802
        """The step of the arrows."""
        self._box.setSingleStep(value)
        self._ranged()

    def _get_decimals(self) -> int:
        return self._box.decimals

    def setDecimals(self, number: int) -> None:  # noqa: N802
        """The digits behind the point."""
        self._box.setDecimals(number)
        self._ranged()

    def _get_tracking(self) -> bool:
        return self._tracking

    def setTracking(self, tracking: bool) -> None:  # noqa: N802
        """Whether the value follows while the slider is dragged."""
        self._tracking = tracking
        self._slider.setTracking(tracking)

    value = qt.Property(float, _get_value, setValue)
    minimum = qt.Property(float, _get_minimum, setMinimum)
    maximum = qt.Property(float, _get_maximum, setMaximum)
    singleStep = qt.Property(float, _get_step, setSingleStep)  # noqa: N815
    decimals = qt.Property(int, _get_decimals, setDecimals)
    tracking = qt.Property(bool, _get_tracking, setTracking)


class ctkMessageBox(qt.QMessageBox):  # noqa: N801
    """Qt's message box, without the box that remembers the answer."""


def __getattr__(name: str) -> type:
    """An empty widget class for any other name of CTK, so that code which only mentions it can be imported."""
    if not name.startswith("ctk"):
        raise AttributeError(f"module 'ctk' has no attribute {name!r}")
    globals()[name] = type(name, (qt.QWidget,), {"__module__": __name__})
    return globals()[name]
