"""Makes plugins on two tiny backbones, and what the engine answers in its own process, for tests that have no torch.

`python engine_answers.py FOLDER`, with the library on the path.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Lib"))

from networks import three_views, view, write_plugin
from shell import findable_backbone
from volumes import study

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.heatmap import heatmap
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.preprocessing import Box, Region, Segment
from AnyMC3DLib.spec import RegionSpec, SliceSpec, ViewSpec
from AnyMC3DLib.volume import Volume

BOX = ((-40.0, 0.0, -20.0), (-20.0, 25.0, 10.0))
LABEL = 2


def with_region(backbone: Backbone, kind: str) -> ViewSpec:
    """A view that looks at a region that comes with the study."""
    spec = view(backbone)
    return dataclasses.replace(
        spec, preprocessing=dataclasses.replace(spec.preprocessing, region=RegionSpec(kind=kind))
    )


def labels(volume: Volume) -> np.ndarray:
    """A segmentation on the volume's grid."""
    result = np.zeros(volume.grid, dtype=np.uint8)
    result[2:5] = 1
    result[4:10, 3:15, 2:12] = LABEL
    return result


def main(folder: Path) -> None:
    """Write plugins, images and answers."""
    backbone, first = findable_backbone(folder)
    other, second = findable_backbone(folder, "test_resnet", seed=1)
    many = SliceSpec(policy="thickness", thickness_mm=0.004)
    write_plugin(folder / "one.safetensors", backbone, name="One")
    write_plugin(
        folder / "three.safetensors", backbone, name="Three", views=three_views(backbone), task_type="multiclass"
    )
    write_plugin(folder / "box.safetensors", backbone, name="Box", views=(with_region(backbone, "box"),))
    write_plugin(folder / "segment.safetensors", backbone, name="Segment", views=(with_region(backbone, "segment"),))
    write_plugin(folder / "many.safetensors", backbone, name="Many", views=(view(backbone, slices=many),))
    write_plugin(folder / "other.safetensors", other, name="Other")
    volume = study()
    np.save(folder / "image.npy", volume.array)
    np.save(folder / "labels.npy", labels(volume))
    regions: dict[str, Region] = {
        "Box": Box(*BOX),
        "Segment": Segment(Volume(labels(volume), volume.ijk_to_ras, name="labels"), LABEL),
    }
    answers = {}
    for engine, names in ((Classifier(backbone), ("one", "three", "box", "segment")), (Classifier(other), ("other",))):
        for name in [engine.load(folder / f"{n}.safetensors") for n in names]:
            images = Study({"image": volume}, {"image": regions[name]} if name in regions else {})
            answers[name] = engine.classify(images, plugins=[name])[name]
    np.save(folder / "heat.npy", heatmap(answers["One"], volume, class_name="lesion").array)
    told = {
        "affine": volume.ijk_to_ras.tolist(),
        "weights": {"first": str(first), "second": str(second)},
        "box": BOX,
        "label": LABEL,
        "answers": {name: prediction.to_dict() for name, prediction in answers.items()},
    }
    (folder / "answers.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
