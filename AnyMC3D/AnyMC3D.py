"""AnyMC3D: classify 3D images with small plugins on one frozen 2D backbone. A shell; the roles live in AnyMC3DUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
import slicer
from AnyMC3DUI import places
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

places.put_library_on_path()

from AnyMC3DUI import sample_data  # noqa: E402
from AnyMC3DUI.dependencies import Dependencies, slicer_tools  # noqa: E402
from AnyMC3DUI.desk import Desk  # noqa: E402
from AnyMC3DUI.form import load_form, set_scene  # noqa: E402
from AnyMC3DUI.parameters import AnyMC3DParameters  # noqa: E402
from AnyMC3DUI.scripting import Classification, ScriptEngine  # noqa: E402

from AnyMC3DLib.resources import resource  # noqa: E402 - it may lie one level up


class AnyMC3D(ScriptedLoadableModule):
    """The module: its texts, its icon, its sample data."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        parent.title = _("AnyMC3D")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Classification")]
        parent.dependencies = ["Segmentations", "Markups", "VolumeRendering", "SubjectHierarchy"]
        parent.contributors = ["The AnyMC3D developers"]
        parent.helpText = _(
            "Classifies the open study with small task plugins on one frozen 2D foundation model, and shows which "
            "slices and places the answer came from. Research only, not for clinical use."
        )
        parent.acknowledgementText = _(
            "The method is that of 'Revisiting 2D Foundation Models for Scalable 3D Medical Image Classification' "
            "(arXiv 2512.12887)."
        )
        parent.icon = qt.QIcon(str(resource("Icons", "AnyMC3D.png")))
        slicer.app.connect("startupCompleted()", sample_data.register)


class AnyMC3DWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: AnyMC3DLogic | None = None
        self.desk: Desk | None = None

    def setup(self) -> None:
        """Load the form and connect it."""
        ScriptedLoadableModuleWidget.setup(self)
        form, self.ui = load_form()
        self.layout.addWidget(form)
        set_scene(form, slicer.mrmlScene)
        self.logic = AnyMC3DLogic()
        self.desk = Desk(self.ui, form, scene=slicer.mrmlScene, parameters=self.logic.getParameterNode)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._scene_closes)
        self.addObserver(scene, scene.StartImportEvent, self._scene_changes)
        # After the selectors, which wait for the same event and would choose anew.
        self.addObserver(scene, scene.EndBatchProcessEvent, self._scene_changed, priority=-1.0)
        slicer.app.connect("aboutToQuit()", self._application_quits)

    def enter(self) -> None:
        """The module is chosen."""
        self.desk.enter()

    def exit(self) -> None:
        """Another module is chosen; work goes on."""

    def cleanup(self) -> None:
        """The module is unloaded."""
        self.removeObservers()
        slicer.app.disconnect("aboutToQuit()", self._application_quits)
        # At the application's end nothing else would see to it that the worker ends; it does so within a moment.
        self.desk.close(wait=True)
        AnyMC3DLogic.close()

    def _scene_closes(self, caller: Any, event: str) -> None:
        self.desk.scene_closes()

    def _scene_changes(self, caller: Any, event: str) -> None:
        self.desk.scene_changes()

    def _scene_changed(self, caller: Any, event: str) -> None:
        self.desk.scene_changed()

    def _application_quits(self) -> None:
        self.desk.close(wait=True)


class AnyMC3DLogic(ScriptedLoadableModuleLogic):
    """Scripts classify with this, from the Python console or `Slicer --python-script`."""

    _engine: ScriptEngine | None = None  # one for all scripts, so that it stays warm

    def getParameterNode(self) -> AnyMC3DParameters:  # noqa: N802 - Slicer's name
        """The module's parameter node, typed."""
        return AnyMC3DParameters(super().getParameterNode())

    def classify(
        self,
        volumeNode: slicer.vtkMRMLVolumeNode | Mapping[str, slicer.vtkMRMLVolumeNode],
        plugins: Sequence[str],
        *,
        regions: Mapping[str, slicer.vtkMRMLNode] | None = None,
        segments: Mapping[str, str] | None = None,
        device: str = "auto",
        done: Callable[[Mapping[str, Any]], None] | None = None,
        failed: Callable[[str], None] | None = None,
    ) -> Mapping[str, Any] | Classification:
        """Classify a volume, or several by the plugins' sources, and file the answers in the scene.

        `plugins` are names of installed plugins or paths of plugin files; `regions` and `segments` (IDs) go by source.
        Without `done` it waits and returns the answers by plugin (see Prediction.to_dict), or raises AnyMC3DError.
        With `done` it returns at once what can be cancelled, and calls `done` with the answers or `failed` with a
        sentence. When the scene is closed, the work ends, and so does the engine.
        """
        if AnyMC3DLogic._engine is None:
            AnyMC3DLogic._engine = ScriptEngine(slicer.mrmlScene)
        work = Classification(AnyMC3DLogic._engine.client, scene=slicer.mrmlScene, device=device)
        work.begin(volumeNode, plugins, regions=regions, segments=segments, done=done, failed=failed)
        return work if done else work.wait()

    @staticmethod
    def close() -> None:
        """End the engine of the scripts; the next call starts another."""
        if AnyMC3DLogic._engine is not None:
            AnyMC3DLogic._engine.close()
            AnyMC3DLogic._engine = None


class AnyMC3DTest(ScriptedLoadableModuleTest):
    """The self-test: the sample study through the sample plugin, without a download."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:  # noqa: N802
        """All of it, where the engine's packages are installed: a test installs none."""
        missing = Dependencies(slicer_tools()).missing()
        if missing:
            names = ", ".join(one.name for one in missing)
            self.delayDisplay(_("The self-test needs Python packages: {names}.").format(names=names))
            return
        self.setUp()
        self.test_the_sample_plugin_finds_the_lesion_of_the_sample_study()

    def test_the_sample_plugin_finds_the_lesion_of_the_sample_study(self) -> None:
        """From the Sample Data module to an answer in the scene."""
        import SampleData

        sample_data.register()
        volume = SampleData.downloadSample(sample_data.SAMPLE)
        self.delayDisplay(_("The sample study is loaded."))
        plugin = str(resource("Sample", f"{sample_data.SAMPLE}.safetensors"))
        (answer,) = AnyMC3DLogic().classify(volume, [plugin]).values()
        (found,) = answer["hot_spots"]
        self.assertTrue(answer["decisions"][found])
        self.assertGreater(answer["hot_spots"][found][0]["heat"], 0.5)
        AnyMC3DLogic.close()
        self.delayDisplay(_("The self-test has passed."))
