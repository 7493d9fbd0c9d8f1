"""For `python -m host --script`: the sample study from opening to heat, with a picture of the window at each step.

`ANYMC3D_TOUR_STUDY` names another image file, `ANYMC3D_TOUR_OUT` the folder for the pictures.
"""

from __future__ import annotations

import os
from pathlib import Path

out = Path(os.environ.get("ANYMC3D_TOUR_OUT", "."))
study = os.environ.get("ANYMC3D_TOUR_STUDY")
if study:
    slicer.util.loadVolume(study)  # noqa: F821 - these names come from the host
else:
    import SampleData

    SampleData.downloadSample("HeadLesionPhantom")
slicer.app.layoutManager().resetSliceViews()  # noqa: F821
widget.enter()  # noqa: F821
widget.ui.pluginList.item(0).setCheckState(qt.Qt.Checked)  # noqa: F821
picture(out / "1-before.png")  # noqa: F821
widget.ui.classifyButton.click()  # noqa: F821
wait(lambda: widget.ui.stepLabel.text.startswith("Classifying: "), 300)  # noqa: F821
host.window.grab().save(str(out / "2-during.png"))  # noqa: F821
wait(lambda: not widget.desk.session.busy, 300)  # noqa: F821
wait(lambda: "Rendering" not in widget.ui.heatStateLabel.text, 300)  # noqa: F821
if not widget.desk.overlay.visible:  # noqa: F821
    # Nothing was found: the heat is asked for all the same, and what little there is of it.
    widget.ui.overlayButton.click()  # noqa: F821
    widget.ui.thresholdSlider.value = 0.05  # noqa: F821
    wait(lambda: widget.desk.overlay.visible, 300)  # noqa: F821
if widget.ui.hotSpotTable.rowCount:  # noqa: F821
    widget.ui.hotSpotTable.cellClicked.emit(0, 0)  # noqa: F821
wait(lambda: any("with heat" in node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")), 60)  # noqa: F821
wait(seconds=1)  # noqa: F821
# As a person does with the wheel.
renderer = slicer.app.layoutManager().threeDWidget(0).threeDView().renderWindow().GetRenderers().GetFirstRenderer()  # noqa: F821
renderer.GetActiveCamera().Dolly(1.7)
renderer.ResetCameraClippingRange()
slicer.app.layoutManager().threeDWidget(0).threeDView().scheduleRender()  # noqa: F821
picture(out / "3-after.png")  # noqa: F821
button = widget.ui.chartsArea.findChildren(qt.QPushButton)[0]  # noqa: F821
button.click()
picture(out / "4-chart.png")  # noqa: F821
widget.ui.overlayButton.setChecked(False)  # noqa: F821
picture(out / "5-hidden.png")  # noqa: F821
