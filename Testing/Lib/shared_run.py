"""For test_processes.py: one training by as many processes as a launcher has started; the first writes what came of it.

torchrun --nproc_per_node 2 shared_run.py FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import interrupted_run
import torch
from networks import plugin_spec, tiny_backbone, view

from AnyMC3DLib.spec import HeadSpec, SliceSpec
from AnyMC3DLib.training.processes import Processes
from AnyMC3DLib.training.run import Keeping, train_plugin
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec


def main(folder: Path) -> None:
    """Train, and write the plugin and what was predicted."""
    torch.set_num_threads(1)
    processes = Processes()
    backbone = tiny_backbone("test_vit", depth=1)
    views = (view(backbone, size=(32, 32), slices=SliceSpec()),)
    plugin = plugin_spec(backbone, views=views, head=HeadSpec(standardise=True))
    recipe = TrainingSpec(epochs=3, batch=5, warm_up_epochs=4, adapter_rate=1e-2, head_rate=1e-2, slices=3)
    result = train_plugin(
        TaskSpec(plugin=plugin, training=recipe),
        interrupted_run.cases(),
        backbone,
        folder / "plugin.safetensors",
        keeping=Keeping(folder / "run", every_s=0.0),
        processes=processes,
    )
    told = {
        "processes": processes.count,
        "history": [dataclasses.asdict(one) for one in result.history],
        "probabilities": result.validation.probabilities.tolist(),
    }
    (folder / f"told-{processes.rank}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
