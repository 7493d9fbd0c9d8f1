"""For `python -m host --script`: twelve phantoms become cases, a plugin is trained for three minutes, and answers.

`ANYMC3D_TOUR_OUT` names the folder for the pictures; the dataset and the plugins lie in folders that are thrown away.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from AnyMC3DLib.phantom import head_phantom

CASES, UNSEEN = 12, 13
RADII_MM = (15.0, 19.0)  # large lesions, since twelve heads teach little
out = Path(os.environ.get("ANYMC3D_TOUR_OUT", "."))
out.mkdir(parents=True, exist_ok=True)
folder = Path(tempfile.mkdtemp(prefix="anymc3d-dataset-"))
ui, desk = widget.ui, widget.desk  # noqa: F821 - these names come from the host
research = desk.research


def add_head(number: int) -> object:
    """The head with that number as a volume of the scene."""
    volume = head_phantom(number, lesion=number % 2 == 1, lesion_radii_mm=RADII_MM).volume
    return slicer.util.addVolumeFromArray(volume.array, ijkToRAS=volume.ijk_to_ras, name=f"head {number}")  # noqa: F821


def must(condition: bool, sentence: str) -> None:
    """End the tour where it did not go as it should."""
    if not condition:
        raise SystemExit(f"{sentence} The panel says: {ui.datasetStateLabel.text} {ui.trainStateLabel.text}")


widget.enter()  # noqa: F821
ui.tabs.setCurrentIndex(1)
research.dataset.ask.folder = lambda title: str(folder)
ui.datasetNewButton.click()
for row, name in enumerate(("no lesion", "lesion")):
    ui.datasetClassList.item(row).setText(name)
for number in range(CASES):
    ui.datasetVolumeSelector.setCurrentNode(add_head(number))
    ui.datasetLabelSelector.setCurrentIndex(1 + number % 2)
    ui.datasetAddButton.click()
    added = wait(lambda n=number: len(research.dataset.dataset) == n + 1 and ui.datasetAddButton.enabled, 60)  # noqa: F821
    must(added, f"Head {number} did not become a case.")
ui.datasetSplitSection.collapsed = False
for spin, share in ((ui.datasetTestSpin, 0), (ui.datasetValSpin, 33), (ui.datasetTrainSpin, 67)):
    spin.setValue(share)
wait(seconds=1)  # noqa: F821
ui.datasetSplitButton.click()
ui.datasetCheckButton.click()
wait(lambda: "problem" in ui.datasetStateLabel.text.lower(), 120)  # noqa: F821
slicer.app.layoutManager().resetSliceViews()  # noqa: F821
picture(out / "dataset.png")  # noqa: F821

ui.tabs.setCurrentIndex(2)
ui.trainNameEdit.setText("Head lesion")
ui.trainQuestionEdit.setText("Is there a bright lesion in this head?")
ui.trainPresetSelector.setCurrentIndex(ui.trainPresetSelector.findText("MR"))
ui.trainSizeSpin.setValue(192)
ui.trainCountSpin.setValue(14)
ui.trainBudgetSpin.setValue(3)
ui.trainPreviewSection.collapsed = False
ui.trainEstimateButton.click()
wait(lambda: "minute" in ui.trainEstimateLabel.text or "moment" in ui.trainEstimateLabel.text, 180)  # noqa: F821
wait(seconds=3)  # noqa: F821
picture(out / "train-before.png")  # noqa: F821
ui.trainPreviewSection.collapsed = True
must(research.dataset.save(), "The dataset was not saved.")
wait(lambda: ui.trainStartButton.enabled, 20)  # noqa: F821
ui.trainStartButton.click()
must(research.training.busy, "The training did not begin.")
wait(lambda: "raining, epoch 3" in ui.trainStateLabel.text or not research.training.busy, 300)  # noqa: F821
ui.trainChartButton.click()
picture(out / "train-during.png")  # noqa: F821
wait(lambda: not research.training.busy, 600)  # noqa: F821
picture(out / "train-after.png")  # noqa: F821
must(any(card.name == "Head lesion" for card in desk.panel.ticked), "The new plugin is not ticked.")

ui.tabs.setCurrentIndex(0)
unseen = add_head(UNSEEN)
slicer.util.setSliceViewerLayers(background=unseen, fit=True)  # noqa: F821
desk.panel.prefill()
must(ui.classifyButton.enabled, "The thirteenth head cannot be classified.")
ui.classifyButton.click()
wait(lambda: not desk.session.busy, 300)  # noqa: F821
must(ui.stepLabel.text == "Done.", f"The thirteenth head was not classified: {ui.stepLabel.text}")
wait(lambda: "Rendering" not in ui.heatStateLabel.text, 120)  # noqa: F821
picture(out / "thirteenth.png")  # noqa: F821
