"""The whole module with the real worker: from the panel's buttons to an answer, or to a sentence why there is none.

One panel and one worker serve all tests here, which leave nothing behind in them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import slicer
import studies
import vtk
from hosting import MODULE, Host, nothing_raised, start
from test_module import SAMPLE, sample, tick
from worker_desk import spin, worker_python

from AnyMC3DLib.plugin import METADATA_KEY
from AnyMC3DLib.resources import resource

# The sample study is `head_phantom(127, lesion=True)`: the middle of its lesion, a ball of about 11 mm.
LESION = (21.31, -11.31, -20.83)
# 16 pixels of the network's input, in which the head's 173 mm fill the 192 pixels.
PATCH_MM = 16 * 173 / 192
UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
Spec = dict[str, Any]
Tensors = dict[str, tuple[str, list[int], bytes]]


@dataclasses.dataclass
class Desk:
    """The module's panel, as a person sees it."""

    widget: Any
    told: list[str] = dataclasses.field(default_factory=list)
    at: Callable[[str], bool] = lambda words: False
    act: Callable[[], None] = lambda: None

    @property
    def ui(self) -> Any:
        return self.widget.ui

    @property
    def pid(self) -> int | None:
        return self.widget.desk.session._client.pid

    @property
    def results(self) -> list[Any]:
        return self.widget.desk.store.all()

    @property
    def log(self) -> str:
        return self.ui.logEdit.toPlainText()

    @property
    def sentence(self) -> str:
        return self.ui.stepLabel.text

    def tell(self, words: str) -> None:
        """What the panel tells is also noted here, and may be the moment to act."""
        type(self.widget.desk.panel).tell(self.widget.desk.panel, words)
        self.told.append(words)
        if self.at(words):
            self.at = lambda words: False
            self.act()

    def choose(self, volume: Any, source: str = "image") -> None:
        """Choose a volume by hand."""
        self.widget.desk.panel._rows._volumes[source].setCurrentNode(volume)

    def classify(self) -> None:
        """Click, and wait for the end, whatever it is."""
        self.told.clear()
        assert self.ui.classifyButton.enabled, self.sentence
        self.ui.classifyButton.click()
        spin(lambda: not self.widget.desk.session.busy)

    def answer(self) -> Any:
        """Classify, and the answer with its heat."""
        before = len(self.results)
        self.classify()
        assert len(self.results) == before + 1, self.told[-1]
        spin(lambda: self.widget.desk.overlay.visible)
        return self.results[-1]

    def refusal(self) -> str:
        """Classify, and why there is no answer."""
        self.classify()
        sentence = self.sentence
        assert sentence == self.told[-1] and sentence in self.log
        assert sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence
        assert self.results == []
        assert self.ui.classifyButton.enabled and not self.ui.cancelButton.enabled
        return sentence

    def add_plugin(self, change: Callable[[Spec, Tensors], None]) -> None:
        """Install a plugin that is the sample's but for a change, and tick it alone."""
        from AnyMC3DUI.settings import plugin_folder

        write_changed(plugin_folder() / "changed.safetensors", change)
        self.widget.desk.panel.refresh()
        names = [card.name for card in self.widget.desk.panel._folder.cards]
        tick(self.widget, next(row for row, name in enumerate(names) if name != SAMPLE))

    def clean(self) -> None:
        """As it was when the module was opened, but for the worker."""
        from AnyMC3DUI.settings import plugin_folder

        self.at = lambda words: False
        self.widget.desk.session.cancel()
        self.widget.desk.results.clear()
        for results in self.results:
            results.remove()
        for kind in ("vtkMRMLVolumeNode", "vtkMRMLTransformNode"):
            for node in slicer.util.getNodesByClass(kind):
                slicer.mrmlScene.RemoveNode(node)
        (plugin_folder() / "changed.safetensors").unlink(missing_ok=True)
        self.widget.desk.parameters.plugins = []
        self.widget.desk.panel.refresh()
        self.ui.logEdit.clear()
        slicer.app.processEvents()


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    """The module, opened in the application, with a worker that has the engine."""
    with pytest.MonkeyPatch.context() as patch, nothing_raised(), start(views=True) as running:
        patch.setattr(sys, "executable", worker_python())
        patch.setattr("AnyMC3DUI.dependencies.Dependencies.missing", lambda self: ())
        yield opened_in(running)


def opened_in(running: Host) -> Any:
    running.load(MODULE)
    running.started()
    return running.show("AnyMC3D")


@pytest.fixture
def desk(opened: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(opened)
    monkeypatch.setattr(opened.desk.panel, "tell", made.tell)
    with nothing_raised():
        yield made
        made.clean()


def sample_content() -> tuple[Spec, Tensors]:
    """The description of the sample plugin, and its tensors by name."""
    data = resource("Sample", f"{SAMPLE}.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    spec = json.loads(header.pop("__metadata__")[METADATA_KEY])
    return spec, {name: (one["dtype"], one["shape"], body[slice(*one["data_offsets"])]) for name, one in header.items()}


def write_changed(path: Path, change: Callable[[Spec, Tensors], None]) -> None:
    """Write the sample plugin, changed."""
    spec, tensors = sample_content()
    change(spec, tensors)
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: json.dumps(spec)}}
    body = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def two_sources(spec: Spec, tensors: Tensors) -> None:
    """A second view, alike, of a second image."""
    spec["name"] = "Two images"
    (first,) = spec["views"]
    spec["views"] = [{**first, "source": "first"}, {**first, "name": "axial-second", "source": "second"}]
    for name in [name for name in tensors if "axial" in name]:
        tensors[name.replace("axial", "axial-second")] = tensors[name]
    dtype, shape, content = tensors["0.fusions.axial.query"]
    tensors["0.view_fusion.query"] = dtype, shape, bytes(len(content))


def other_backbone(spec: Spec, tensors: Tensors) -> None:
    """Trained on weights that nobody has."""
    spec["name"] = "Of another backbone"
    spec["backbone"]["digest"] = "sha256:" + 64 * "0"


def affine_of(volume: Any) -> npt.NDArray[np.float64]:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def copy_of(volume: Any, array: npt.NDArray, affine: npt.NDArray, *, name: str, colour: bool = False) -> Any:
    """Another volume in its place, which the views then show."""
    made = studies.add_volume(array, affine, name=name, colour=colour)
    slicer.mrmlScene.RemoveNode(volume)
    slicer.util.setSliceViewerLayers(background=made)
    return made


def finer_sample(times: int = 3) -> Any:
    """The sample study with so many voxels that each step takes long enough to be told."""
    volume = sample()
    affine = affine_of(volume)
    affine[:3, :3] /= times
    array = np.kron(slicer.util.arrayFromVolume(volume), np.ones((times,) * 3, dtype=np.int16))
    return copy_of(volume, array, affine, name="finer")


def hottest(heat: Any) -> npt.NDArray[np.float64]:
    """Where the hottest voxel is in the world."""
    array = slicer.util.arrayFromVolume(heat)
    return studies.world_of(heat, np.unravel_index(array.argmax(), array.shape)[::-1])


def turned_about(place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A rotation by 20 degrees about a line through the place."""
    transform = vtk.vtkTransform()
    transform.Translate(*place)
    transform.RotateWXYZ(20, 0.6, -0.5, 0.7)
    transform.Translate(*-place)
    return slicer.util.arrayFromVTKMatrix(transform.GetMatrix())


# from a click to an answer


def test_three_actions_bring_a_new_user_to_heat(desk: Desk) -> None:
    sample()
    tick(desk.widget)
    desk.answer()
    manager = slicer.app.layoutManager()
    heat = desk.widget.desk.overlay.heat
    place = hottest(heat)
    assert desk.ui.overlayButton.checked
    for name in ("Red", "Green", "Yellow"):
        widget = manager.sliceWidget(name)
        assert widget.mrmlSliceCompositeNode().GetForegroundVolumeID() == heat.GetID()
        widget.mrmlSliceNode().JumpSliceByOffsetting(*place)
        assert is_hot(widget.sliceView(), place)
    desk.ui.overlayButton.click()
    assert not is_hot(manager.sliceWidget("Red").sliceView(), place)


def is_hot(view: Any, ras: npt.NDArray[np.float64]) -> bool:
    """Whether most of the picture about a place is from red to yellow."""
    picture = view.array().astype(int)
    to_xy = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.mrmlSliceNode().GetXYToRAS()))
    x, y, *_ = to_xy @ (*ras, 1.0)
    row, column = len(picture) - 1 - round(y), round(x)
    about = picture[row - 8 : row + 9, column - 8 : column + 9]
    return float(((about[..., 0] - about[..., 2] > 40) & (about[..., 0] - about[..., 1] > 25)).mean()) > 0.5


@pytest.mark.parametrize("way", ["header", "transform"])
def test_heat_lies_in_the_lesion_of_a_head_that_is_turned(desk: Desk, way: str) -> None:
    upright = sample()
    affine, array = affine_of(upright), slicer.util.arrayFromVolume(upright).copy()
    # About a corner, so that each part of the geometry that got lost would show.
    turn = turned_about(affine[:3, 3])
    lesion = (turn @ (*LESION, 1.0))[:3]
    assert np.linalg.norm(lesion - LESION) > 2 * PATCH_MM
    volume = copy_of(upright, array, turn @ affine if way == "header" else affine, name="turned")
    if way == "transform":
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turn))
        volume.SetAndObserveTransformNodeID(transform.GetID())
    tick(desk.widget)
    results = desk.answer()
    assert results.volume is volume
    assert results.predictions[SAMPLE]["decisions"]["lesion"]
    assert np.linalg.norm(hottest(results.heat(SAMPLE, "lesion")) - lesion) < PATCH_MM
    ((spot, _), *_) = results.spots_of(SAMPLE, "lesion")
    assert np.linalg.norm(spot - lesion) < PATCH_MM


# ways out


@pytest.mark.parametrize("moment", ["Loading", "Cutting slices", "Classifying: "])
def test_cancel_is_told_and_leaves_the_panel_ready_for_another_run(desk: Desk, moment: str) -> None:
    finer_sample()
    tick(desk.widget)
    (card,) = desk.widget.desk.panel.ticked
    # Another date is another file, which is loaded again.
    os.utime(card.path)
    desk.at, desk.act = (lambda words: words.startswith(moment)), desk.ui.cancelButton.click
    desk.classify()
    assert any(words.startswith(moment) for words in desk.told)
    assert desk.sentence == "Cancelled."
    assert desk.results == []
    assert desk.ui.classifyButton.enabled and not desk.ui.cancelButton.enabled
    pid = desk.pid
    assert desk.answer().predictions[SAMPLE]["decisions"]["lesion"]
    assert desk.pid == pid


@UNIX
def test_a_worker_that_is_killed_is_told_and_another_answers_and_writes_the_log(desk: Desk) -> None:
    finer_sample()
    tick(desk.widget)
    spin(lambda: desk.pid is not None)
    pid = desk.pid
    desk.at, desk.act = (lambda words: words.startswith("Classifying: ")), lambda: os.kill(pid, signal.SIGKILL)
    assert "killed" in desk.refusal()
    assert not psutil.pid_exists(pid)
    desk.ui.logEdit.clear()
    assert desk.answer().predictions[SAMPLE]["decisions"]["lesion"]
    assert any(line.startswith("The backbone is on the device '") for line in desk.log.splitlines())
    assert desk.pid not in (None, pid)


# what cannot be classified


def test_images_that_share_no_place_are_refused(desk: Desk) -> None:
    near = sample()
    affine = affine_of(near)
    affine[:3, 3] += 2000
    far = studies.add_volume(slicer.util.arrayFromVolume(near).copy(), affine, name="another patient")
    desk.add_plugin(two_sources)
    desk.choose(near, "first")
    desk.choose(far, "second")
    assert "do not overlap" in desk.refusal()
    desk.choose(copy_of(far, slicer.util.arrayFromVolume(near).copy(), affine_of(near), name="again"), "second")
    desk.classify()
    assert list(desk.results[0].predictions) == ["Two images"]


def test_a_volume_of_colours_is_refused(desk: Desk) -> None:
    grey = sample()
    array = np.stack([slicer.util.arrayFromVolume(grey).clip(0, 255).astype(np.uint8)] * 3, axis=-1)
    copy_of(grey, array, affine_of(grey), name="photographs", colour=True)
    tick(desk.widget)
    assert "colour" in desk.refusal()


def test_a_plugin_of_another_backbone_is_refused(desk: Desk) -> None:
    sample()
    desk.add_plugin(other_backbone)
    sentence = desk.refusal()
    assert "Of another backbone" in sentence and "trained on" in sentence
