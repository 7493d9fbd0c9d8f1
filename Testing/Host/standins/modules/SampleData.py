"""The Sample Data module, for machines without Slicer's sources: what a module registers, and loading it by name."""

from __future__ import annotations

import dataclasses
import hashlib
import urllib.parse
import urllib.request
from pathlib import Path

import slicer


@dataclasses.dataclass
class SampleDataSource:
    """A data set."""

    sampleName: str  # noqa: N815 - the names are Slicer's here and below
    uris: str
    fileNames: str  # noqa: N815
    nodeNames: str  # noqa: N815
    checksums: str | None = None
    thumbnailFileName: str | None = None  # noqa: N815


class SampleDataLogic:
    """The registry."""

    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:  # noqa: N802
        """A heading; the panel that shows it is not here."""

    @staticmethod
    def registerCustomSampleDataSource(category: str = "Custom", **fields: str) -> None:  # noqa: N802
        """Add a data set; one that is there already stays alone."""
        sources = slicer.modules.__dict__.setdefault("sampleDataSources", {}).setdefault(category, [])
        source = SampleDataSource(**fields)
        if source not in sources:
            sources.append(source)


def downloadSample(name: str) -> object:  # noqa: N802
    """Load a data set and return its node; only files of this machine are meant here."""
    found = [one for many in slicer.modules.sampleDataSources.values() for one in many if one.sampleName == name]
    source = found[0]
    path = Path(urllib.request.url2pathname(urllib.parse.urlparse(source.uris).path))
    if source.checksums:
        method, _, digest = source.checksums.partition(":")
        if hashlib.new(method, path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{path} has another checksum")
    return slicer.util.loadVolume(str(path), {"name": source.nodeNames})
