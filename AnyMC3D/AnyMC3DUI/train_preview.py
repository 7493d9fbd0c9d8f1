"""What the network will see: the slices of a case after window, crop and resizing, as the worker cuts them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import qt
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.messages import ImageSource, Preview
from AnyMC3DLib.spec import ViewSpec

from .array_file import read_in_pieces
from .steps import InTurns, Steps
from .steps import Sequence as StepSequence
from .worker_client import WorkerClient
from .worker_steps import Asking

if TYPE_CHECKING:
    import numpy.typing as npt

    from AnyMC3DLib.training.dataset import Dataset

PAUSE_MS = 300  # after the last change, before the worker is asked
SIDE = 300  # of the picture at most, in pixels of the screen
NAME = "case"


class TrainPreview:
    """The section of the preview; the worker is asked only while it is unfolded.

    `views` gives those that are chosen, and raises AnyMC3DError where nothing can be cut yet.
    """

    def __init__(
        self,
        ui: Any,
        client: WorkerClient,
        *,
        dataset: Callable[[], Dataset | None],
        views: Callable[[], Sequence[ViewSpec]],
    ) -> None:
        self._ui, self._client, self._dataset, self._views_of = ui, client, dataset, views
        self._filling = False
        self._views: Sequence[ViewSpec] = ()
        self._keys: tuple[int, ...] = ()
        self._slices: npt.NDArray | None = None
        self._asking: StepSequence | None = None
        self._pause = qt.QTimer(ui.trainPreviewLabel)
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE_MS)
        self._pause.connect("timeout()", self._ask)
        ui.trainPreviewLabel.setAlignment(qt.Qt.AlignCenter)
        ui.trainPreviewSection.connect("contentsCollapsed(bool)", self._folded)
        ui.trainPreviewCaseSelector.connect("currentIndexChanged(int)", self._chosen)
        ui.trainPreviewViewSelector.connect("currentIndexChanged(int)", self._chosen)
        ui.trainPreviewSlider.connect("valueChanged(int)", self._draw)
        self._forget("")

    def refresh(self) -> None:
        """The cases changed."""
        dataset = self._dataset()
        self._keys = dataset.keys if dataset is not None else ()
        names = [dataset.cell(key, NAME) for key in self._keys] if dataset is not None else []
        self._fill(self._ui.trainPreviewCaseSelector, names)
        self.changed()

    def changed(self) -> None:
        """The choices changed: soon the slices are cut again."""
        try:
            self._views = self._views_of()
        except AnyMC3DError:
            self._views = ()
        self._fill(self._ui.trainPreviewViewSelector, [view.name for view in self._views])
        self._later()

    def close(self) -> None:
        """Ask no more."""
        self._pause.stop()
        self._cancel()

    def _later(self) -> None:
        if not self._ui.trainPreviewSection.collapsed:
            self._pause.start()

    def _folded(self, folded: bool) -> None:
        if folded:
            self.close()
        else:
            self._ask()

    def _chosen(self, _index: int) -> None:
        if not self._filling:
            self._later()

    def _fill(self, box: qt.QComboBox, names: list[str]) -> None:
        """Fill the box and keep what was chosen, if it is still there."""
        before = box.currentText
        self._filling = True
        box.clear()
        box.addItems(names)
        box.setCurrentIndex(max(0, names.index(before) if before in names else 0) if names else -1)
        self._filling = False

    def _ask(self) -> None:
        self._cancel()
        try:
            params = self._params()
        except AnyMC3DError as error:
            self._forget(str(error))
            return
        if params is None:
            self._forget(_("There is no case, or no view, to show."))
            return
        self._ui.trainPreviewStateLabel.text = _("Cutting slices…")
        steps = self._cut(params)
        what = "The preview"
        self._asking = StepSequence(steps, done=self._came, failed=self._did_not, what=what)
        self._asking.begin()

    def _params(self) -> Preview | None:
        dataset = self._dataset()
        case, number = self._ui.trainPreviewCaseSelector.currentIndex, self._ui.trainPreviewViewSelector.currentIndex
        if dataset is None or not 0 <= case < len(self._keys) or not 0 <= number < len(self._views):
            return None
        view = self._views[number]
        path = dataset.image_path(self._keys[case], view.source)
        if path is None:
            return None
        return Preview(images={view.source: ImageSource(file=str(path))}, view=view.to_dict())

    def _cut(self, params: Preview) -> Steps:
        answer = yield Asking(self._client, "preview", params)
        return (yield InTurns(read_in_pieces(Path(answer["array"]))))

    def _cancel(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()

    def _came(self, slices: npt.NDArray) -> None:
        # Bytes at once: the slider draws from them at every step.
        self._slices = np.rint(np.clip(slices, 0, 1) * 255).astype(np.uint8)
        slider, count = self._ui.trainPreviewSlider, len(slices)
        is_other = slider.maximum != count - 1
        slider.setEnabled(count > 1)
        slider.setRange(0, count - 1)
        if is_other:
            slider.setValue(count // 2)
        self._draw()

    def _did_not(self, error: AnyMC3DError) -> None:
        self._forget(str(error))

    def _forget(self, sentence: str) -> None:
        self._slices = None
        self._ui.trainPreviewSlider.setEnabled(False)
        self._ui.trainPreviewLabel.clear()
        self._ui.trainPreviewStateLabel.text = sentence

    def _draw(self, _position: object = None) -> None:
        if self._slices is None:
            return
        number, (count, _channels, rows, columns) = self._ui.trainPreviewSlider.value, self._slices.shape
        picture = qt.QPixmap.fromImage(image_of(self._slices[number]))
        self._ui.trainPreviewLabel.setPixmap(picture.scaled(SIDE, SIDE, qt.Qt.KeepAspectRatio))
        self._ui.trainPreviewStateLabel.text = _("Slice {n} of {count}, {rows} x {columns} pixels").format(
            n=number + 1, count=count, rows=rows, columns=columns
        )


def image_of(channels: npt.NDArray[np.uint8]) -> qt.QImage:
    """A slice [C, H, W] as an image, grey for one channel, else RGB."""
    count, rows, columns = channels.shape
    # Not the constructor from a buffer, which PythonQt lacks.
    head = f"P{5 if count == 1 else 6} {columns} {rows} 255\n".encode()
    image = qt.QImage()
    image.loadFromData(head + channels.transpose(1, 2, 0).tobytes())
    return image
