"""Plugin files that hold a description and hardly any weight: enough for the panel, which reads no weights."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

from AnyMC3DLib.plugin import METADATA_KEY
from AnyMC3DLib.spec import BackboneRef, ClassSpec, PluginSpec, PreprocessingSpec, RegionSpec, ViewSpec


def write_plugin_file(
    path: Path, *, name: str, sources: tuple[str, ...] = ("image",), region: str | None = None, **fields: str
) -> None:
    """Write a plugin of one view for each source."""
    preprocessing = PreprocessingSpec()
    if region is not None:
        preprocessing = dataclasses.replace(preprocessing, region=RegionSpec(kind=region))
    spec = PluginSpec(
        name=name,
        task_type="binary",
        classes=(ClassSpec(name="no"), ClassSpec(name="yes")),
        backbone=BackboneRef(id="test_vit"),
        views=tuple(ViewSpec(name=source, source=source, preprocessing=preprocessing) for source in sources),
        **fields,
    )
    tensors = {"0.head.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps({"__metadata__": {METADATA_KEY: json.dumps(spec.to_dict())}, **tensors}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 0.0))
