"""What is tried when memory does not suffice: smaller batches, fewer bits, the CPU, and at last a sentence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from networks import three_views, tiny_backbone, tiny_network
from volumes import study

from AnyMC3DLib import classifier, memory
from AnyMC3DLib.backbone import Backbone, Encoded
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.entrances import Entrances, Stage
from AnyMC3DLib.errors import InputError, MemoryShortage
from AnyMC3DLib.job import Job, NotFinite
from AnyMC3DLib.memory import ACTIVATIONS, FIRST_BATCH, MOST_SLICES, SECONDS_A_BATCH, SHORTAGE, USABLE, BatchSizer, Step
from AnyMC3DLib.memory import is_out_of_memory as is_shortage
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.prediction import Prediction, Study
from AnyMC3DLib.spec import FusionSpec, SliceSpec
from AnyMC3DLib.volume import Volume
from AnyMC3DLib.weights import digest_of

CPU = torch.device("cpu")
# No two slices alike: a median would take its value from either.
NOISE = 50 * np.random.default_rng(0).normal(size=study().array.shape).astype(np.float32)
STUDY = Study({"image": Volume(study().array + NOISE, study().ijk_to_ras)})


# Which errors


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.empty(2**50), lambda: np.empty(2**55, dtype=np.uint8), lambda: bytearray(2**60)],
    ids=["torch", "NumPy", "Python"],
)
def test_a_real_failure_to_allocate_is_a_shortage(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert is_shortage(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
    ids=str,
)
def test_every_devices_words_for_a_shortage_are_known(error: Exception) -> None:
    assert is_shortage(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("x"), InputError("memory")]
)
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert not is_shortage(error)


# How large a batch is


PIXELS = (100, 200)


def sizer_with(
    monkeypatch: pytest.MonkeyPatch, slices: float, *, fixed: int | None = None, told: list[Step] | None = None
) -> BatchSizer:
    """A sizer on a device with memory for so many slices of PIXELS."""
    free = int(slices * PIXELS[0] * PIXELS[1] * 3 * 4 * ACTIVATIONS / USABLE) + 1000
    monkeypatch.setattr(memory, "free_memory", lambda _: free)
    return BatchSizer(CPU, fixed=fixed, tell=None if told is None else told.append)


def test_batches_begin_small_and_at_most_double_until_they_take_the_time_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizer = sizer_with(monkeypatch, 10_000)
    sizes = []
    for _ in range(8):
        sizes.append(sizer.size(*PIXELS))
        sizer.measured(sizes[-1], PIXELS[0] * PIXELS[1], sizes[-1] / 400)  # 400 slices a second
    assert sizes[:5] == [FIRST_BATCH, 8, 16, 32, 64]
    assert sizes[5:] == [int(400 * SECONDS_A_BATCH)] * 3
    # Slices four times as large take four times as long.
    assert sizer.size(2 * PIXELS[0], 2 * PIXELS[1]) == 25


def test_a_device_that_becomes_slow_gets_smaller_batches_and_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    sizer = sizer_with(monkeypatch, 10_000)
    sizer.size(*PIXELS)
    for seconds in (0.01, 10.0, 1e4, 1e9):
        sizer.measured(4, PIXELS[0] * PIXELS[1], seconds)
    found = [sizer.size(*PIXELS)]
    for _ in range(40):
        sizer.measured(1, PIXELS[0] * PIXELS[1], 1e9)
        found.append(sizer.size(*PIXELS))
    assert found == sorted(found, reverse=True)
    assert found[-1] == 1


def test_a_batch_that_took_no_time_at_all_is_no_division_by_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    sizer = sizer_with(monkeypatch, 10_000)
    for _ in range(20):
        sizer.measured(sizer.size(*PIXELS), PIXELS[0] * PIXELS[1], 0.0)
    assert sizer.size(*PIXELS) == MOST_SLICES


@pytest.mark.parametrize(("room", "expected"), [(0, 1), (0.5, 1), (3, 3), (6, 6), (100, 8)])
def test_a_batch_fits_in_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch, room: float, expected: int) -> None:
    sizer = sizer_with(monkeypatch, room)
    sizer._last = FIRST_BATCH
    sizer.measured(1000, PIXELS[0] * PIXELS[1], 0.1)
    assert sizer.size(*PIXELS) == expected


def test_halving_bounds_the_study_alone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for fixed in (None, 16):
        told: list[Step] = []
        sizer = sizer_with(monkeypatch, 10_000, fixed=fixed, told=told)
        sizer.measured(1000, PIXELS[0] * PIXELS[1], 0.1)
        before = sizer.size(*PIXELS)
        assert before == (fixed or 8)
        assert sizer.halve(before)
        assert sizer.size(*PIXELS) == before // 2
        assert sizer.halve(3)
        assert sizer.size(*PIXELS) == 1
        assert not sizer.halve(1)
        assert told == [
            Step(SHORTAGE, f"batches of {before}", f"batches of {before // 2}"),
            Step(SHORTAGE, "batches of 3", "batches of 1"),
        ]
        sizer.begin()
        assert sizer.size(*PIXELS) == (fixed or 2)  # which grows again, from one


# The engine


class Shortage:
    """Lets `Backbone.encode_from` fail for want of memory while `short` says so of a batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, short: Callable[[int], bool]) -> None:
        self.batches: list[int] = []
        self.short = short
        self._encode = Backbone.encode_from
        monkeypatch.setattr(Backbone, "encode_from", lambda *a, **k: self(*a, **k))

    def __call__(self, backbone: Backbone, stage: Stage, **options: object) -> Encoded:
        if self.short(len(stage.x)):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.batches.append(len(stage.x))
        return self._encode(backbone, stage, **options)


def engine_with(backbone: Backbone, *, names: str = "A", fusion: str = "attention", **options: object) -> Classifier:
    fields = {"views": three_views(backbone, slices=SliceSpec()), "fusion": FusionSpec(kind=fusion)}
    networks = [tiny_network(backbone, seed=seed, name=name, **fields) for seed, name in enumerate(names)]
    engine = Classifier(backbone, **options)
    for network in networks:
        engine.add(network.spec, [network])
    return engine


def assert_same(found: Prediction, expected: Prediction) -> None:
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    for name, maps in expected.maps.items():
        for kind in ("classes", "attention"):
            np.testing.assert_allclose(getattr(found.maps[name], kind), getattr(maps, kind), atol=1e-3)


@pytest.mark.parametrize(
    ("fusion", "most", "together"),
    [("attention", 7, False), ("attention", 1, False), ("median", 1, False), ("attention", 7, True), ("mean", 1, True)],
)
def test_batches_are_halved_until_they_fit_and_the_answer_is_the_same(
    monkeypatch: pytest.MonkeyPatch, fusion: str, most: int, together: bool
) -> None:
    backbone = tiny_backbone(depth=2)
    engine = engine_with(backbone, names="AB", fusion=fusion, batch=12, together=together)
    expected = engine.classify(STUDY)
    assert all(prediction.provenance["memory_steps"] == [] for prediction in expected.values())
    shortage = Shortage(monkeypatch, lambda count: count > most)
    found = engine.classify(STUDY)
    assert max(shortage.batches) <= most
    for name, prediction in found.items():
        assert_same(prediction, expected[name])
        steps = prediction.provenance["memory_steps"]
        assert steps
        assert {step["why"] for step in steps} == {SHORTAGE}
        assert steps[-1]["now"] == f"batches of {min(most, 6) if most > 1 else 1}"
        # A smaller batch is no other device or precision, so there is nothing to warn of.
        assert not any("Computed on" in text for text in prediction.warnings)
    # The next study begins with what was asked for.
    shortage.short = lambda count: False
    assert all(prediction.provenance["memory_steps"] == [] for prediction in engine.classify(STUDY).values())
    assert digest_of(backbone.model) == backbone.digest


@pytest.mark.parametrize("together", [False, True])
def test_a_shortage_slice_by_slice_is_said_in_one_sentence_and_the_engine_works_on(
    monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    backbone = tiny_backbone(depth=2)
    engine = engine_with(backbone, names="AB", together=together)
    expected = engine.classify(STUDY)["A"]
    shortage = Shortage(monkeypatch, lambda count: True)
    for _ in range(2):
        with pytest.raises(
            MemoryShortage, match="not enough for this study, even slice by slice: close other programs"
        ):
            engine.classify(STUDY)
        assert digest_of(backbone.model) == backbone.digest
        assert not any("forward" in vars(module) for module in backbone.model.modules())
    shortage.short = lambda count: False
    found = engine.classify(STUDY)["A"]
    assert_same(found, expected)
    assert found.provenance["memory_steps"] == []
    assert found.warnings == expected.warnings


def test_an_error_that_is_no_shortage_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tried = engine_with(tiny_backbone(depth=1)), []

    def fail(count: int) -> bool:
        tried.append(count)
        raise RuntimeError("shapes do not match")

    Shortage(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        engine.classify(STUDY)
    assert len(tried) == 1


# Fewer bits and other devices. What an attempt on an accelerator would come to is made up; the order is the engine's.


class Accelerator:
    """An engine that takes its backbone to be on a device 'xpu' until it moves it; attempts there end in `errors`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, backbone: Backbone, errors: Sequence[Exception]) -> None:
        self.device = CPU
        self.errors = list(errors)
        self.attempts: list[str] = []
        self.free = 0
        monkeypatch.setattr(Backbone, "device", property(lambda _: self.device))
        monkeypatch.setattr(Backbone, "to", lambda _, device: setattr(self, "device", torch.device(device)))
        monkeypatch.setattr(PluginNetwork, "to", lambda network, _: network)
        monkeypatch.setattr(classifier, "free_memory", lambda _: self.free)
        run = Job.run
        monkeypatch.setattr(Job, "run", lambda job, provenance: self._attempt(run, job, provenance))
        network = calm(tiny_network(backbone, name="A"))
        self.device = torch.device("xpu")
        self.engine = Classifier(backbone)
        self.engine.add(network.spec, [network])

    def _attempt(self, run: Callable, job: Job, provenance: dict) -> dict[str, Prediction]:
        self.attempts.append(f"{provenance['device']} in {provenance['precision']}")
        if self.errors and self.device != CPU:
            raise self.errors.pop(0)
        here, self.device = self.device, CPU
        found = run(job, provenance)
        self.device = here
        return found

    def answer(self) -> Prediction:
        return self.engine.classify(STUDY)["A"]


def calm(network: PluginNetwork) -> PluginNetwork:
    """The network with a head that float16 does not upset."""
    with torch.no_grad():
        network.head.weight.mul_(0.05)
    return network


def shortages(count: int) -> list[Exception]:
    return [torch.OutOfMemoryError("out of memory") for _ in range(count)]


FIRST, FEWER, LAST = "xpu in float32", "xpu in float16", "cpu in float32"


@pytest.mark.parametrize(
    ("errors", "attempts"),
    [
        (shortages(1), [FIRST, FEWER]),
        (shortages(2), [FIRST, FEWER, LAST]),
        ([NotImplementedError("no such kernel")], [FIRST, LAST]),
        ([*shortages(1), NotImplementedError("no such kernel")], [FIRST, FEWER, LAST]),
        # What went past the range of 16 bits is not tried in them again.
        ([*shortages(1), NotFinite(), *shortages(1)], [FIRST, FEWER, FIRST, LAST]),
    ],
)
def test_an_accelerator_tries_fewer_bits_and_then_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, errors: list[Exception], attempts: list[str]
) -> None:
    backbone = tiny_backbone(depth=1)
    accelerator = Accelerator(monkeypatch, backbone, errors)
    with caplog.at_level(logging.WARNING):
        found = accelerator.answer()
    assert accelerator.attempts == attempts
    steps = found.provenance["memory_steps"]
    assert [steps[0]["was"], *(step["now"] for step in steps)] == attempts
    sentences = [f"Computed on {step['now']}, because on {step['was']} {step['why']}." for step in steps]
    assert [text for text in found.warnings if text.startswith("Computed on")] == sentences
    assert [record.message for record in caplog.records] == sentences
    backbone.set_precision(torch.float32)
    assert digest_of(backbone.model) == backbone.digest


def test_the_engine_returns_home_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(monkeypatch, tiny_backbone(depth=1), shortages(2))
    first, second = accelerator.answer(), accelerator.answer()
    assert accelerator.attempts == [FIRST, FEWER, LAST, LAST]
    assert first.provenance["memory_steps"] == second.provenance["memory_steps"]
    accelerator.free = 2**40
    found = accelerator.answer()
    assert accelerator.attempts[4:] == [FIRST]
    assert found.provenance["memory_steps"] == []
    assert not any("Computed on" in text for text in found.warnings)
    assert found.probabilities == pytest.approx(first.probabilities, abs=1e-6)


def test_the_engine_stays_away_from_a_device_that_lacks_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(monkeypatch, tiny_backbone(depth=1), [NotImplementedError("no such kernel")])
    accelerator.free = 2**40
    for _ in range(2):
        assert "an operation is missing there" in accelerator.answer().provenance["memory_steps"][-1]["why"]
    assert accelerator.attempts[-1] == accelerator.attempts[-2]


def test_values_past_a_precisions_range_are_one_studys_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    # A shortage lowers the precision, values go past its range, and on the CPU the study is answered.
    accelerator = Accelerator(monkeypatch, tiny_backbone(depth=1), [*shortages(1), NotFinite(), *shortages(1)])
    found = [step["why"] for step in accelerator.answer().provenance["memory_steps"]]
    assert found == [SHORTAGE, "values went past its range", SHORTAGE]
    first = accelerator.attempts[0]
    assert accelerator.answer().provenance["memory_steps"] == []
    assert accelerator.attempts[-1] == first


def test_halvings_before_a_step_down_stand_in_the_provenance_too(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone(depth=1)
    engine = Classifier(backbone, batch=2, precision="bfloat16")
    network = tiny_network(backbone)
    engine.add(network.spec, [network])
    encode, failures = Backbone.encode_from, [torch.OutOfMemoryError("out of memory"), NotFinite()]

    def failing(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return encode(*arguments, **options)

    monkeypatch.setattr(Backbone, "encode_from", failing)
    prediction = engine.classify(Study({"image": study()}))["Test"]
    steps = prediction.provenance["memory_steps"]
    assert [step["was"] for step in steps] == ["batches of 2", "cpu in bfloat16"]
    assert not any("batches" in warning for warning in prediction.warnings)
    assert backbone.dtype == torch.float32


def test_a_change_of_precision_that_finds_no_room_leaves_the_backbone_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = tiny_backbone(depth=1)
    to, calls = torch.Tensor.to, []

    def short(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("out of memory")
        return to(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", short)
        with pytest.raises(torch.OutOfMemoryError):
            backbone.set_precision(torch.bfloat16)
    assert backbone.dtype == torch.float32
    assert digest_of(backbone.model) == backbone.digest
    backbone.set_precision(torch.bfloat16)
    backbone.set_precision(torch.float32)
    assert digest_of(backbone.model) == backbone.digest


@pytest.mark.parametrize("words", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "Invalid buffer size: 9.00 GiB"])
def test_a_librarys_own_words_for_a_shortage_are_known(words: str) -> None:
    assert is_shortage(RuntimeError(words))


def test_a_shortage_while_an_entrance_is_tried_is_not_taken_for_a_model_that_cannot_be_entered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = tiny_backbone(depth=3)
    advance = Entrances.advance
    expected = tiny_backbone(depth=3).entrance([])
    with monkeypatch.context() as patch:
        patch.setattr(Entrances, "advance", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
        with pytest.raises(torch.OutOfMemoryError):
            backbone.entrance([])
    assert Entrances.advance is advance
    assert backbone.entrance([]) == expected > 0
