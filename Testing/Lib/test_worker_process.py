"""The worker with the real engine: it answers what the library answers in this process, and survives bad requests."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import three_views, view, write_plugin
from shell import findable_backbone, write_medmnist
from volumes import GRID, anatomy, rotation, straight, study

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.client import RequestFailed
from AnyMC3DLib.errors import Cancelled
from AnyMC3DLib.heatmap import heatmap
from AnyMC3DLib.messages import ProgressNote
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.prediction import Prediction, Study
from AnyMC3DLib.preprocessing import Box, preprocess
from AnyMC3DLib.protocol import INPUT_AT_FAULT, WRONG_STATE
from AnyMC3DLib.spec import IntensitySpec, RegionSpec, SliceSpec
from AnyMC3DLib.transport import WorkerProcess
from AnyMC3DLib.volume import Volume, write_volume
from AnyMC3DLib.workspace import BASE_VARIABLE

WAIT_S = 120.0
CLOSE = 1e-5


@dataclasses.dataclass(frozen=True)
class Desk:
    """One worker for all tests here, plugins on two backbones, and the same engine in this process."""

    folder: Path
    worker: WorkerProcess
    backbone: Backbone
    weights: dict[str, Path]

    def plugin(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def call(self, method: str, **params: Any) -> Any:
        return self.worker.call(method, params, timeout=WAIT_S)

    def load(self, *names: str, weights: str = "first") -> list[Any]:
        return [self.call("load", path=str(self.plugin(n)), weights=str(self.weights[weights])) for n in names]

    def refused(self, method: str, **params: Any) -> RequestFailed:
        with pytest.raises(RequestFailed, match=r"^\S.*[.:]") as caught:
            self.call(method, **params)
        return caught.value

    def image(self, volume: Volume) -> dict[str, Any]:
        return {"array": self.worker.put_array(volume.array), "ijk_to_ras": volume.ijk_to_ras.tolist()}

    def classify(self, volume: Volume, **params: Any) -> Any:
        return self.call("classify", images={"image": self.image(volume)}, **params)

    def render(self, job: str, plugin: str, grid: Volume, class_name: str | None, **params: Any) -> np.ndarray:
        place = {"shape": list(grid.grid), "ijk_to_ras": grid.ijk_to_ras.tolist()}
        result = self.call("render", job=job, plugin=plugin, **place, **{"class": class_name}, **params)
        assert np.allclose(result["ijk_to_ras"], grid.ijk_to_ras)
        return self.worker.take_array(result)

    def here(self, volume: Volume, *names: str, regions: dict[str, Any] | None = None) -> dict[str, Prediction]:
        engine = Classifier(self.backbone)
        loaded = [engine.load(self.plugin(name)) for name in names]
        answer = engine.classify(Study({"image": volume}, regions or {}), maps="all")
        for name in loaded:
            engine.unload(name)
        return answer


def with_box(backbone: Backbone) -> Any:
    spec = view(backbone)
    return dataclasses.replace(
        spec, preprocessing=dataclasses.replace(spec.preprocessing, region=RegionSpec(kind="box"))
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    backbone, weights = findable_backbone(folder)
    other, other_weights = findable_backbone(folder, "test_resnet", seed=1)
    with WorkerProcess(environment={BASE_VARIABLE: str(folder)}) as worker:
        desk = Desk(folder, worker, backbone, {"first": weights, "other": other_weights})
        write_plugin(desk.plugin("one"), backbone, name="One")
        write_plugin(desk.plugin("three"), backbone, name="Three", views=three_views(backbone), task_type="multiclass")
        write_plugin(desk.plugin("box"), backbone, name="Box", views=(with_box(backbone),))
        every = SliceSpec(policy="thickness", thickness_mm=0.01)
        write_plugin(desk.plugin("many"), backbone, name="Many", views=(view(backbone, slices=every),))
        write_plugin(desk.plugin("other"), other, name="Other")
        yield desk


@pytest.fixture
def desk(shared: Desk) -> Iterator[Desk]:
    """After each test the folder is empty, and the worker answers."""
    shared.load("one", "three")
    yield shared
    assert shared.classify(study(), maps="none")["predictions"]
    assert list(shared.worker.folder.iterdir()) == []


def assert_same(answer: dict[str, Any], prediction: Prediction) -> None:
    assert answer["probabilities"] == pytest.approx(prediction.probabilities, abs=CLOSE)
    assert answer["decisions"] == prediction.decisions
    for name, slices in prediction.slices.items():
        told = answer["views"][name]["slices"]
        assert np.allclose([s["weight"] for s in told], slices.weights, atol=CLOSE)
        assert np.allclose([s["ras"] for s in told], slices.centres, atol=1e-3)


def test_the_worker_answers_what_the_library_answers(desk: Desk) -> None:
    for volume in (study(), study("oblique gantry tilt")):
        here = desk.here(volume, "one", "three")
        told = desk.classify(volume, plugins=["One", "Three"])
        for name, prediction in here.items():
            assert_same(told["predictions"][name], prediction)
            grid = Volume(np.zeros((5, 6, 7), dtype=np.uint8), rotation(10, 5, 3) @ straight((4.0, 5.0, 6.0)))
            for class_name in (None, *prediction.spec.explained):
                for place in (volume, grid):
                    heat = desk.render(told["job"], name, place, class_name)
                    assert heat.dtype == np.float32
                    assert np.allclose(heat, heatmap(prediction, place, class_name=class_name).array, atol=CLOSE)


def test_a_heatmap_may_be_asked_for_in_bytes(desk: Desk) -> None:
    volume = study()
    job = desk.classify(volume, plugins=["One"])["job"]
    exact = desk.render(job, "One", volume, "lesion")
    coarse = desk.render(job, "One", volume, "lesion", dtype="uint8")
    assert coarse.dtype == np.uint8
    assert np.abs(coarse / 255 - exact).max() <= 0.5 / 255 + CLOSE


def test_an_image_may_be_a_file(desk: Desk) -> None:
    write_volume(desk.folder / "study.nrrd", study())
    told = desk.call("classify", images={"image": {"file": str(desk.folder / "study.nrrd")}}, plugins=["One"])
    assert_same(told["predictions"]["One"], desk.here(study(), "one")["One"])


def test_an_array_outside_the_folder_is_read_and_stays(desk: Desk) -> None:
    place = desk.folder / "mine.npy"
    np.save(place, study().array)
    image = {"array": str(place), "ijk_to_ras": study().ijk_to_ras.tolist()}
    assert_same(desk.call("classify", images={"image": image})["predictions"]["One"], desk.here(study(), "one")["One"])
    assert place.exists()


@pytest.mark.parametrize("kind", ["box", "text", "segment"])
def test_a_region_may_be_a_box_or_words_or_a_segment(desk: Desk, kind: str) -> None:
    desk.load("box")
    volume = study()
    corners = volume.corners()
    low, high = (corners.mean(axis=0) + sign * 0.2 * np.ptp(corners, axis=0) for sign in (-1, 1))
    box = Box(tuple(low.tolist()), tuple(high.tolist()))
    if kind == "segment":
        mask = Volume(np.zeros(GRID, dtype=np.uint8), volume.ijk_to_ras)
        mask.array[4:9, 6:12, 5:11] = 3
        region = {"segment": {**desk.image(mask), "label": 3}}
        told = desk.classify(volume, plugins=["Box"], regions={"image": region})
        assert told["predictions"]["Box"]["probabilities"]
        empty = {"segment": {**desk.image(mask), "label": 2}}
        assert "segment 2" in str(desk.refused("classify", images={"image": desk.image(volume)}, plugins=["Box"],
                                               regions={"image": empty}))  # fmt: skip
    else:
        words = "box:" + ",".join(map(str, (*low, *high)))
        region = {"text": words} if kind == "text" else {"box": {"low": low.tolist(), "high": high.tolist()}}
        told = desk.classify(volume, plugins=["Box"], regions={"image": region})
        assert_same(told["predictions"]["Box"], desk.here(volume, "box", regions={"image": box})["Box"])
    desk.call("unload", name="Box")


def test_maps_may_be_left_out_and_a_heatmap_is_then_refused(desk: Desk) -> None:
    volume = study()
    told = desk.classify(volume, maps="none", plugins=["One"])
    assert not any(told["predictions"]["One"]["hot_spots"].values())
    error = desk.refused("render", job=told["job"], plugin="One", shape=[2, 2, 2], ijk_to_ras=np.eye(4).tolist())
    assert error.code == INPUT_AT_FAULT and "without" in str(error)


def test_a_heatmap_can_be_asked_for_after_another_study_was_classified(desk: Desk) -> None:
    first, second = study(), Volume(anatomy(seed=3), straight())
    jobs = [desk.classify(volume, plugins=["One"])["job"] for volume in (first, second)]
    for job, volume in zip(jobs, (first, second), strict=True):
        expected = heatmap(desk.here(volume, "one")["One"], volume, class_name="lesion").array
        assert np.allclose(desk.render(job, "One", volume, "lesion"), expected, atol=CLOSE)
    for _ in range(4):
        desk.classify(first, plugins=["One"])
    place = {"shape": [2, 2, 2], "ijk_to_ras": np.eye(4).tolist()}
    assert desk.refused("render", job=jobs[0], plugin="One", **place).code == WRONG_STATE


def test_what_cannot_be_rendered_is_refused(desk: Desk) -> None:
    job = desk.classify(study(), plugins=["One"])["job"]
    place = {"shape": [2, 2, 2], "ijk_to_ras": np.eye(4).tolist()}
    assert "no plugin 'Three'" in str(desk.refused("render", job=job, plugin="Three", **place))
    assert "lesion" in str(desk.refused("render", job=job, plugin="One", **place, **{"class": "normal"}))
    flat = {**place, "ijk_to_ras": np.diag([1.0, 1.0, 0.0, 1.0]).tolist()}
    assert "singular" in str(desk.refused("render", job=job, plugin="One", **flat))


def test_loading_tells_what_the_plugin_is(desk: Desk) -> None:
    (answer,) = desk.load("three")
    assert answer["name"] == "Three" and answer["backbone"] == "timm:test_vit" and answer["unloaded"] == []
    assert answer["spec"] == json.loads(json.dumps(read_spec(desk.plugin("three")).to_dict()))


def test_an_unloaded_plugin_answers_no_more(desk: Desk) -> None:
    desk.call("unload", name="Three")
    assert list(desk.classify(study())["predictions"]) == ["One"]
    assert "'Three' is not loaded" in str(desk.refused("classify", images={}, plugins=["Three"]))
    assert desk.refused("unload", name="Three").code == INPUT_AT_FAULT


def test_a_plugin_of_another_backbone_takes_the_place_of_the_others(desk: Desk) -> None:
    (answer,) = desk.load("other", weights="other")
    assert sorted(answer["unloaded"]) == ["One", "Three"] and answer["backbone"] == "timm:test_resnet"
    assert list(desk.classify(study(), maps="none")["predictions"]) == ["Other"]
    (answer,) = desk.load("one")
    assert answer["unloaded"] == ["Other"]
    assert_same(desk.classify(study())["predictions"]["One"], desk.here(study(), "one")["One"])


@pytest.mark.parametrize("weights", ["first", "nowhere"])
def test_a_backbone_that_cannot_be_opened_leaves_the_old_one_as_it_was(desk: Desk, weights: str) -> None:
    place = desk.weights.get(weights, desk.folder / "nowhere.safetensors")
    desk.refused("load", path=str(desk.plugin("other")), weights=str(place))
    told = desk.classify(study())["predictions"]
    assert sorted(told) == ["One", "Three"]
    assert_same(told["One"], desk.here(study(), "one")["One"])


def test_without_a_plugin_there_is_nothing_to_classify_with(desk: Desk) -> None:
    for name in ("One", "Three"):
        desk.call("unload", name=name)
    assert desk.refused("classify", images={"image": desk.image(study())}).code == WRONG_STATE
    desk.load("one")


def pickled(desk: Desk) -> dict[str, Any]:
    place = desk.worker.folder / "pickled.npy"
    np.save(place, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return {"array": str(place)}


def cut_off(desk: Desk) -> dict[str, Any]:
    place = Path(desk.worker.put_array(study().array))
    place.write_bytes(place.read_bytes()[:-100])
    return {"array": str(place)}


def too_large_by_its_header(desk: Desk) -> dict[str, Any]:
    place = Path(desk.worker.put_array(np.zeros((9, 9, 9), dtype=np.uint8)))
    place.write_bytes(place.read_bytes().replace(b"(9, 9, 9), }     ", b"(9999999,999999)}"))
    return {"array": str(place)}


def no_array(desk: Desk) -> dict[str, Any]:
    (desk.worker.folder / "text.npy").write_text("hello")
    return {"array": str(desk.worker.folder / "text.npy")}


def archive(desk: Desk) -> dict[str, Any]:
    np.savez(desk.worker.folder / "archive.npz", a=study().array)
    return {"array": str(desk.worker.folder / "archive.npz")}


def with_nan(_: Desk) -> np.ndarray:
    array = anatomy()
    array[3, 4, 5] = np.nan
    return array


@pytest.mark.parametrize(
    "make",
    [
        with_nan,
        lambda _: np.zeros(GRID),
        lambda _: np.zeros(5),
        lambda _: np.zeros((4, 5, 6, 7)),
        lambda _: np.zeros(GRID, dtype=complex),
        lambda _: np.zeros(GRID, dtype=[("a", "f4")]),
        lambda _: np.zeros(GRID, dtype="U3"),
        lambda _: np.zeros((0, 4, 5)),
        pickled,
        cut_off,
        too_large_by_its_header,
        no_array,
        archive,
        lambda desk: {"array": str(desk.worker.folder / "nothing.npy")},
        lambda desk: {"array": str(desk.worker.folder)},
        lambda desk: {"array": "a\0b"},
        lambda desk: {"array": ""},
        lambda desk: {"array": "\ud800"},
        lambda desk: {"file": str(desk.folder / "nothing.nrrd")},
        lambda desk: {"file": str(desk.plugin("one"))},
        lambda desk: {"file": "a\0b"},
    ],
    ids=lambda make: make.__name__,
)
def test_a_bad_image_is_refused_and_a_good_one_is_classified_next(desk: Desk, make: Any) -> None:
    made = make(desk)
    source = made if isinstance(made, dict) else {"array": desk.worker.put_array(made)}
    if "array" in source:
        source["ijk_to_ras"] = straight().tolist()
    assert desk.refused("classify", images={"image": source}).code == INPUT_AT_FAULT
    assert desk.classify(study(), plugins=["One"], maps="none")["predictions"]


def test_a_colour_picture_and_an_array_in_another_order_are_taken(desk: Desk) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (1, 40, 50, 3)).astype(np.uint8)
    assert desk.classify(Volume(picture, np.eye(4)))["predictions"]
    backwards = Volume(np.asfortranarray(study().array), study().ijk_to_ras)
    assert_same(desk.classify(backwards)["predictions"]["One"], desk.here(study(), "one")["One"])


def test_a_running_classification_is_cancelled_between_its_batches(desk: Desk) -> None:
    desk.load("many")
    seen, begun = list[ProgressNote](), threading.Event()

    def on_progress(note: ProgressNote) -> None:
        seen.append(note)
        if note.step.startswith("Classifying"):
            begun.set()

    params = {"images": {"image": desk.image(study())}, "plugins": ["Many"], "maps": "none"}
    request = desk.worker.request("classify", params, on_progress=on_progress)
    assert begun.wait(WAIT_S)
    desk.worker.cancel(request).result(WAIT_S)
    with pytest.raises(Cancelled):
        request.result(WAIT_S)
    assert seen[-1].done < seen[-1].total
    desk.call("unload", name="Many")


def test_a_preview_shows_how_a_study_is_cut(desk: Desk) -> None:
    volume = study("oblique")
    spec = next(view for view in read_spec(desk.plugin("three")).views if view.name == "coronal")
    expected = preprocess(volume, spec.preprocessing)
    for choice in ({"plugin": "Three", "view": "coronal"}, {"view": spec.to_dict()}):
        told = desk.call("preview", images={"image": desk.image(volume)}, **choice)
        assert told["axis"] == "coronal"
        assert np.allclose(told["ijk_to_ras"], expected.ijk_to_ras) and np.allclose(told["centres"], expected.centres)
        assert np.array_equal(desk.worker.take_array(told), expected.array)
    assert "no view 'back'" in str(desk.refused("preview", images={}, plugin="Three", view="back"))


def task(backbone: Backbone, **training: Any) -> dict[str, Any]:
    window = IntensitySpec(kind="window", windows=((127.5, 255.0),))
    spec = view(backbone, size=(32, 32), intensity=window)
    spec = dataclasses.replace(spec, preprocessing=dataclasses.replace(spec.preprocessing, mean=None, std=None))
    plugin = {
        "name": "Blob",
        "task_type": "binary",
        "classes": [{"name": "no"}, {"name": "blob"}],
        "backbone": {"id": "timm:test_vit"},
        "views": [spec.to_dict()],
        "lora": {"rank": 2},
    }
    return {"plugin": plugin, "training": {"epochs": 1, "warm_up_epochs": 2, "batch": 4, **training}}


ENDLESS = 100_000


@dataclasses.dataclass
class Course:
    """A training in the worker, and events for what it has reached."""

    desk: Desk
    out: Path
    epochs: int
    begun: threading.Event = dataclasses.field(default_factory=threading.Event)
    seen: list[ProgressNote] = dataclasses.field(default_factory=list)

    def start(self, worker: WorkerProcess | None = None) -> Any:
        params = {
            "task": task(self.desk.backbone, epochs=self.epochs),
            "data": str(write_medmnist(self.desk.folder / "data.npz")),
            "out": str(self.out),
            "weights": str(self.desk.weights["first"]),
            # Figures take seconds, which only the training that ends by itself needs.
            "val_splits": ["val"] if self.epochs < ENDLESS else [],
        }
        return (worker or self.desk.worker).request("train", params, on_progress=self._note)

    def _note(self, note: ProgressNote) -> None:
        self.seen.append(note)
        if note.step.startswith("Training"):
            self.begun.set()


def test_a_plugin_is_trained_and_measured(desk: Desk) -> None:
    out = desk.folder / "trained.safetensors"
    answer = Course(desk, out, 1).start().result(WAIT_S)
    spec = read_spec(out)
    assert answer["plugin"] == str(out) and answer["parameters"] == spec.provenance["parameters"]
    assert answer["figures"] == json.loads(json.dumps(spec.provenance["validation"])) and not answer["stopped_early"]
    assert [(e["phase"], e["epoch"]) for e in answer["epochs"]] == [("warm-up", 1), ("warm-up", 2), ("training", 1)]
    given = {"data": str(desk.folder / "data.npz"), "weights": str(desk.weights["first"])}
    figures = desk.call("evaluate", plugin=str(out), against=str(out), splits=["val", "test"], **given)
    assert figures["plugin"] == "Blob" and figures["cases"] == 18
    assert {"auc", "accuracy", "auc_difference"} < set(figures)
    assert_same(desk.classify(study())["predictions"]["One"], desk.here(study(), "one")["One"])


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "no such task"},
        {"task": {"plugin": {}}},
        {"data": "nowhere.csv"},
        {"weights": "nowhere.safetensors"},
        {"device": "toaster"},
        {"train_splits": ["nights"]},
        {"val_splits": ["train"]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_training_that_cannot_be_is_refused(desk: Desk, changed: dict[str, Any]) -> None:
    params = {
        "task": task(desk.backbone),
        "data": str(write_medmnist(desk.folder / "data.npz")),
        "out": str(desk.folder / "never.safetensors"),
        "weights": str(desk.weights["first"]),
    }
    assert desk.refused("train", **{**params, **changed}).code == INPUT_AT_FAULT
    assert not (desk.folder / "never.safetensors").exists()


def test_a_training_is_paused_resumed_and_stopped_with_its_plugin(desk: Desk) -> None:
    course = Course(desk, desk.folder / "stopped.safetensors", ENDLESS)
    request = course.start()
    assert course.begun.wait(WAIT_S)
    for method in ("pause", "resume", "pause", "stop"):
        assert desk.call(method) == {"request": request.id}
    answer = request.result(WAIT_S)
    assert len(answer["epochs"]) < ENDLESS
    assert read_spec(course.out).name == "Blob"
    assert desk.refused("pause").code == WRONG_STATE


def test_a_training_is_cancelled_without_a_plugin(desk: Desk) -> None:
    course = Course(desk, desk.folder / "cancelled.safetensors", ENDLESS)
    request = course.start()
    assert course.begun.wait(WAIT_S)
    desk.worker.cancel(request).result(WAIT_S)
    with pytest.raises(Cancelled):
        request.result(WAIT_S)
    assert not course.out.exists()


def test_the_end_of_input_lets_the_training_write_its_plugin(shared: Desk) -> None:
    course = Course(shared, shared.folder / "last.safetensors", ENDLESS)
    worker = WorkerProcess(environment={BASE_VARIABLE: str(shared.folder)})
    worker.start()
    course.start(worker)
    assert course.begun.wait(WAIT_S)
    worker._process.stdin.close()
    assert worker._process.wait(WAIT_S) == 0
    assert read_spec(course.out).name == "Blob"
    assert not worker.folder.exists()
    worker.close()


def test_progress_of_every_job_names_its_steps(desk: Desk) -> None:
    load = {"path": str(desk.plugin("one")), "weights": str(desk.weights["first"])}
    for method, params in (("load", load), ("classify", {"images": {"image": desk.image(study())}})):
        seen = list[ProgressNote]()
        desk.worker.call(method, params, on_progress=seen.append, timeout=WAIT_S)
        assert seen[0].elapsed_s == 0 and all(note.step for note in seen)
