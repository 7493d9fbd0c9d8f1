"""The study and the plugin that come with the module, so that a first heatmap is a few clicks away."""

from __future__ import annotations

import hashlib

import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.resources import resource

from .plugin_folder import PluginFolder

CATEGORY = "AnyMC3D"
SAMPLE = "HeadLesionPhantom"
INSTALLED_SETTING = "AnyMC3D/SampleInstalled"


def register() -> None:
    """Add the study to the Sample Data module."""
    import SampleData

    path = resource("Sample", f"{SAMPLE}.nrrd")
    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # since Slicer 5.8
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("AnyMC3D"))
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE,
        thumbnailFileName=str(resource("Icons", f"{SAMPLE}.png")),
        # A file of this computer: nothing is downloaded.
        uris=path.as_uri(),
        fileNames=path.name,
        nodeNames=SAMPLE,
        checksums=f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
    )


def install_plugin_once(folder: PluginFolder) -> None:
    """Install the plugin that comes with the module; once, so that a person who removes it is rid of it."""
    settings = slicer.app.userSettings()
    if slicer.util.settingsValue(INSTALLED_SETTING, False, converter=slicer.util.toBool, settings=settings):
        return
    try:
        folder.install_sample()
    except AnyMC3DError as error:
        slicer.util.showStatusMessage(str(error), 5000)
        return
    settings.setValue(INSTALLED_SETTING, True)
