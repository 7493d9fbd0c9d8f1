"""The engine against the pure backbone, against many calls, against the worker, and against timm with peft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import timm
import torch

from ..classifier import Classifier
from ..prediction import Prediction
from ..transport import WorkerProcess
from .measure import Line, Times, interleaved, seconds
from .reference import Reference
from .setting import SIZE, random_backbone, random_study, write_plugins, write_weights

FLOOR_BATCHES = (4, 8, 16, 64)
PLUGINS = 8
SWAPS = 20


def floor_of(model: str, slices: int, device: torch.device) -> tuple[Callable[[], None], int]:
    """The pure timm forward pass of so many slices in its fastest batch, and that batch."""
    torch.manual_seed(0)
    plain = timm.create_model(model, pretrained=False, num_classes=0, img_size=SIZE).eval().to(device)
    rgb = torch.rand(slices, 3, SIZE, SIZE, device=device)

    def forward(batch: int) -> None:
        with torch.inference_mode():
            for part in rgb.split(batch):
                plain.forward_features(part)

    times = {batch: min(seconds(lambda batch=batch: forward(batch), device) for _ in range(2))
             for batch in FLOOR_BATCHES}  # fmt: skip
    best = min(times, key=times.get)
    return lambda: forward(best), best


def against_the_floor(folder: Path, *, model: str, slices: int, device: torch.device, repeats: int) -> list[Line]:
    """One plugin on a volume in memory: without maps, with the paper's, with the class map; and the reference."""
    backbone = random_backbone(model, device=device)
    engine = Classifier(backbone, precision="float32")
    name = engine.load(write_plugins(backbone, folder, 1, slices=slices)[0])
    study = random_study(slices, SIZE, SIZE)
    forward, batch = floor_of(model, slices, device)
    network = engine.network_of(name)
    reference = Reference(model).fill("axial", network.adapters["axial"]).eval().to(device)
    volume = torch.from_numpy(study.image("image").array.astype(np.float32) / 1000)[:, None].to(device)

    def by_reference() -> None:
        with torch.inference_mode():
            reference(volume)

    times = interleaved(
        {
            "forward": forward,
            "no map": lambda: engine.classify(study, maps="none"),
            "paper's map": lambda: engine.classify(study, maps="attention"),
            "class map": lambda: engine.classify(study, maps="all"),
            "timm and peft": by_reference,
        },
        device,
        repeats,
    )
    record = times.details(*times.runs)
    return [
        Line("engine / forward, paper's map", times.ratio("paper's map", "forward"), 1.10,
             details={"floor_batch": batch, **record}),
        Line("engine / forward, class map", times.ratio("class map", "forward"), 1.15),
        Line("paper's map on / off", times.ratio("paper's map", "no map"), 1.03),
        Line("engine without maps / timm and peft", times.ratio("no map", "timm and peft")),
    ]  # fmt: skip


def many_plugins(folder: Path, *, model: str, slices: int, device: torch.device, repeats: int) -> list[Line]:
    """Eight plugins in one call against eight calls, with all blocks adapted and with the last quarter."""
    backbone = random_backbone(model, device=device)
    quarter = max(1, len(backbone.model.blocks) // 4)
    study = random_study(slices, SIZE, SIZE)
    lines = []
    for last, limit, what in ((None, 1.02, "all blocks"), (quarter, 0.38, "last quarter of blocks")):
        engine = Classifier(backbone, precision="float32")
        names = [
            engine.load(path) for path in write_plugins(backbone, folder, PLUGINS, slices=slices, last_blocks=last)
        ]

        def together(engine: Classifier = engine) -> None:
            engine.classify(study, maps="attention")

        def apart(engine: Classifier = engine, names: Sequence[str] = names) -> None:
            for name in names:
                engine.classify(study, plugins=[name], maps="attention")

        times = interleaved({"one call": together, "calls": apart}, device, repeats)
        record = times.details("one call", "calls")
        lines.append(Line(f"{PLUGINS} plugins in one call / {PLUGINS} calls, {what}",
                          times.ratio("one call", "calls"), limit, details=record))  # fmt: skip
        once = engine.classify(study, maps="all")
        each = {name: engine.classify(study, plugins=[name], maps="all")[name] for name in names}
        lines.append(Line(f"largest difference of results, {what}", _difference(once, each), 1e-5, unit=""))
        for name in names:
            engine.unload(name)
    return lines


def _difference(first: dict[str, Prediction], second: dict[str, Prediction]) -> float:
    """The largest difference of probabilities, slice weights, and maps as a share of their largest value."""
    largest = 0.0
    for name, a in first.items():
        b = second[name]
        pairs = [(np.array(list(a.probabilities.values())), np.array(list(b.probabilities.values())))]
        pairs += [(a.slices[view].weights, b.slices[view].weights) for view in a.slices]
        for view, ours in a.maps.items():
            theirs = b.maps[view]
            for x, y in ((ours.attention, theirs.attention), (ours.classes, theirs.classes)):
                pairs.append((x / x.max(), y / x.max()))
        largest = max(largest, *(float(np.abs(x - y).max()) for x, y in pairs))
    return largest


def swaps(folder: Path, *, model: str, slices: int, device: torch.device) -> list[Line]:
    """The time to exchange a plugin for another, from its file."""
    backbone = random_backbone(model, device=device)
    paths = write_plugins(backbone, folder, PLUGINS, slices=slices)
    engine = Classifier(backbone, precision="float32")
    names = [engine.load(path) for path in paths]
    taken = []
    for number in range(SWAPS):

        def swap(number: int = number) -> None:
            engine.unload(names[number % PLUGINS])
            engine.load(paths[number % PLUGINS])

        taken.append(seconds(swap, device))
    times = Times({"swap": taken})
    return [Line("swap of a plugin", 1000 * times.median("swap"), 50, unit="ms", details=times.details("swap"))]


def through_the_worker(folder: Path, *, model: str, slices: int, device: torch.device, repeats: int) -> list[Line]:
    """The worker against the same call in this process, for a 256^3 volume; start-up is not counted."""
    backbone = random_backbone(model, device=device)
    plugin = write_plugins(backbone, folder, 1, slices=slices)[0]
    weights = write_weights(backbone, folder / "weights.safetensors")
    engine = Classifier(backbone)
    name = engine.load(plugin)
    study = random_study(256, 256, 256)
    image = study.image("image")
    threads = str(torch.get_num_threads())
    with WorkerProcess(environment={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}) as worker:
        worker.call("load", {"path": str(plugin), "weights": str(weights), "device": str(device)})

        def by_worker() -> None:
            given = {"array": str(worker.put_array(image.array)), "ijk_to_ras": image.ijk_to_ras.tolist()}
            worker.call("classify", {"images": {"image": given}, "plugins": [name], "maps": "attention"})

        times = interleaved(
            {"worker": by_worker, "in-process": lambda: engine.classify(study, maps="attention")}, device, repeats
        )
    return [Line("worker / in-process, 256^3", times.ratio("worker", "in-process"), 1.05,
                 details=times.details("worker", "in-process"))]  # fmt: skip
