"""The module's form: one file for the frame with the Classify tab, and one for each further tab."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.resources import resource

FORM = "AnyMC3D.ui"


def load_form() -> tuple[qt.QWidget, Any]:
    """The form with all its tabs, and its widgets by name."""
    form = _load(FORM)
    tabs = slicer.util.childWidgetVariables(form).tabs
    pages = {
        "AnyMC3DDataset.ui": _("Dataset"),
        "AnyMC3DTrain.ui": _("Train"),
        "AnyMC3DPlugins.ui": _("Plugins"),
    }
    for name, title in pages.items():
        tabs.addTab(_load(name), title)
    return form, slicer.util.childWidgetVariables(form)


def set_scene(form: qt.QWidget, scene: slicer.vtkMRMLScene) -> None:
    """Have the selectors of every tab show this scene."""
    form.setMRMLScene(scene)
    tabs = slicer.util.childWidgetVariables(form).tabs
    for number in range(1, tabs.count):
        tabs.widget(number).setMRMLScene(scene)


def _load(name: str) -> qt.QWidget:
    return slicer.util.loadUI(str(resource("UI", name)))
