"""A classification through the real worker: the same answer as without, and a way out at every moment."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import worker_desk
from AnyMC3DUI.plugin_folder import read_card
from AnyMC3DUI.session import ClassifySession, State, grouped_by_backbone, grouped_by_study
from session_desk import Box, Desk, Image, Told, large_image
from worker_desk import CLOSE, Known, LongestGap, spin

from AnyMC3DLib.errors import InputError

UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return worker_desk.make_known(tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def shared(known: Known) -> Iterator[Desk]:
    desk = Desk(known)
    yield desk
    desk.session.close()
    spin(lambda: desk.client.gone)


@pytest.fixture
def desk(shared: Desk) -> Iterator[Desk]:
    """After each test the worker answers rightly, and nothing is left in its folder."""
    shared.reset()
    yield shared
    shared.told.when = lambda *_: None
    shared.known.assert_same(shared.answers(shared.ticked("one"))["One"], "One")
    assert list(shared.client.folder.iterdir()) == []
    assert len(list(shared.known.folder.glob("anymc3d-worker-*"))) == 1


def test_a_study_through_the_worker_is_answered_as_without_it(desk: Desk) -> None:
    predictions = desk.answers(desk.ticked("three", "one"))
    assert list(predictions) == ["Three", "One"]
    for name, answer in predictions.items():
        desk.known.assert_same(answer, name)
    ways = list(dict.fromkeys(desk.told.states))
    assert ways == [State.STARTING, State.LOADING, State.HANDING_OVER, State.CLASSIFYING, State.IDLE]
    assert desk.asked.count("classify") == 1


def test_every_step_is_told_in_words(desk: Desk) -> None:
    desk.session.close()
    desk.answers(desk.ticked("one", "many", images={"image": large_image(desk.known)}))
    words = desk.told.words
    for expected in ("Starting the engine", "Loading One", "Loading Many", "Handing over image"):
        assert expected in words
    assert any(text.startswith("Cutting slices: axial") for text in words)
    assert any(text.startswith("Classifying: axial (") for text in words)
    assert all(doing.fraction is None or 0 <= doing.fraction <= 1 for doing in desk.told.doings)
    assert any(doing.fraction == 1 for doing in desk.told.doings if doing.words == "Handing over image")


def test_a_class_is_rendered_as_without_the_worker(desk: Desk) -> None:
    desk.answers(desk.ticked("one"))
    heat = desk.heat("One", "lesion")
    assert heat.dtype == np.float32 and np.allclose(heat, desk.known.heat, atol=CLOSE)
    coarse = desk.heat("One", "lesion", dtype="uint8")
    assert coarse.dtype == np.uint8 and np.abs(coarse / 255 - desk.known.heat).max() <= 0.5 / 255 + CLOSE
    assert desk.heat("One", None).shape == desk.known.image.shape


def test_the_last_wish_to_render_counts(desk: Desk) -> None:
    desk.answers(desk.ticked("one"))
    first: list[Any] = []
    place = {"shape": desk.known.image.shape, "ijk_to_ras": desk.known.affine}
    desk.session.render("One", None, done=first.append, failed=first.append, **place)
    assert np.allclose(desk.heat("One", "lesion"), desk.known.heat, atol=CLOSE)
    assert first == []


def test_what_was_not_answered_cannot_be_rendered(desk: Desk) -> None:
    desk.answers(desk.ticked("one"))
    assert "classify the study first" in desk.heat("Three", "severe")
    assert "no such class" in desk.heat("One", "no such class")


def test_an_answer_can_be_rendered_after_a_cancelled_attempt_at_the_next(desk: Desk) -> None:
    desk.answers(desk.ticked("one"))
    desk.told.ends.clear()
    desk.session.classify(desk.ticked("three"))
    desk.session.cancel()
    assert desk.the_end() == ("cancelled", None)
    assert np.allclose(desk.heat("One", "lesion"), desk.known.heat, atol=CLOSE)


def test_a_region_goes_with_the_study(desk: Desk) -> None:
    box = Box(*(tuple(corner) for corner in desk.known.told["box"]))
    labels = Image(desk.known.labels, desk.known.affine, desk.known.told["label"])
    ticked = [
        *desk.ticked("box", regions={"image": box}),
        *desk.ticked("segment", regions={"image": labels}),
        *desk.ticked("one"),
    ]
    predictions = desk.answers(ticked)
    for name in ("Box", "Segment", "One"):
        desk.known.assert_same(predictions[name], name)
    assert desk.asked.count("classify") == 2


def test_plugins_on_two_backbones_are_classified_one_group_after_another(desk: Desk) -> None:
    predictions = desk.answers(desk.ticked("one", "other", "three"))
    assert list(predictions) == ["One", "Other", "Three"]
    for name, answer in predictions.items():
        desk.known.assert_same(answer, name)
    assert desk.asked.count("classify") == 2
    assert np.allclose(desk.heat("One", "lesion"), desk.known.heat, atol=CLOSE)
    assert isinstance(desk.heat("Other", "lesion"), np.ndarray)


def test_what_is_loaded_is_not_loaded_again_and_what_is_not_ticked_goes(desk: Desk) -> None:
    desk.answers(desk.ticked("one", "three"))
    desk.reset()
    desk.answers(desk.ticked("one", "three"))
    assert desk.asked == ["classify"]
    desk.reset()
    desk.answers(desk.ticked("three"))
    assert desk.asked == ["unload", "classify"]


def test_a_file_that_was_replaced_is_loaded_again(desk: Desk) -> None:
    desk.answers(desk.ticked("one"))
    desk.reset()
    place = desk.known.plugin("one")
    shutil.copy(place, place.with_suffix(".copy"))
    place.with_suffix(".copy").replace(place)
    desk.answers(desk.ticked("one"))
    assert desk.asked == ["load", "classify"]


def test_without_what_it_needs_nothing_begins(desk: Desk) -> None:
    one, three = desk.ticked("one", "three")
    for ticked, words in (
        ([], "No plugin is ticked"),
        ([one, three, one], "called 'One'"),
        (desk.ticked("one", images={}), "no volume for 'image'"),
        (desk.ticked("box"), "looks at a region in 'image'"),
    ):
        with pytest.raises(InputError, match=words):
            desk.session.classify(ticked)
    assert desk.told.states == [] and not desk.session.busy


def test_a_second_classification_waits_for_the_first(desk: Desk) -> None:
    desk.session.classify(desk.ticked("one"))
    with pytest.raises(InputError, match="being classified"):
        desk.session.classify(desk.ticked("one"))
    spin(lambda: desk.told.ends)
    assert desk.the_end()[0] == "finished"


def test_sessions_on_one_worker_know_of_each_other(desk: Desk) -> None:
    desk.answers(desk.ticked("one"))
    told = Told()
    other = ClassifySession(desk.client, told)
    desk.asked.clear()
    other.classify(desk.ticked("one", "other"))
    with pytest.raises(InputError, match="being classified"):
        desk.session.classify(desk.ticked("one"))
    assert not desk.session.busy
    desk.session.cancel()
    spin(lambda: told.ends)
    assert told.ends[0][0] == "finished"
    assert desk.asked == ["classify", "unload", "load", "classify"]
    desk.known.assert_same(desk.answers(desk.ticked("one"))["One"], "One")


def test_the_sentence_of_the_worker_is_shown_for_a_plugin_of_another_backbone(desk: Desk) -> None:
    sentence = desk.failure(desk.ticked("other", weights="first"))
    assert "weights" in sentence.lower() or "trained on" in sentence
    assert list(desk.client.folder.iterdir()) == []


def test_a_plugin_file_that_is_gone_is_told(desk: Desk, tmp_path: Path) -> None:
    copy = shutil.copy(desk.known.plugin("three"), tmp_path / "gone.safetensors")
    (one,) = desk.ticked("one")
    ticked = dataclasses.replace(one, card=read_card(Path(copy)))
    Path(copy).unlink()
    assert "gone.safetensors" in desk.failure([ticked])


def test_an_image_that_the_worker_refuses_is_told(desk: Desk) -> None:
    flat = Image(desk.known.image, np.diag([1.0, 1.0, 0.0, 1.0]))
    assert desk.failure(desk.ticked("one", images={"image": flat}))


MOMENTS = {
    "the start": lambda state, words: state is State.STARTING,
    "load": lambda state, words: state is State.LOADING,
    "hand-over": lambda state, words: state is State.HANDING_OVER,
    "preprocessing": lambda state, words: words.startswith("Cutting slices"),
    "the request": lambda state, words: state is State.CLASSIFYING,
    "computing": lambda state, words: words.startswith("Classifying: "),
}


def begin_long_job(desk: Desk, moment: str, act: Callable[[], None]) -> None:
    """Begin what takes seconds, and act at the moment."""
    desk.answers(desk.ticked("three"))
    if moment == "the start":
        desk.session.close()
    desk.reset()
    desk.acting(MOMENTS[moment], act)
    desk.session.classify(desk.ticked("many", images={"image": large_image(desk.known)}))
    spin(lambda: desk.told.ends)


@pytest.mark.parametrize("moment", MOMENTS)
def test_cancel_ends_the_work_at_once(desk: Desk, moment: str) -> None:
    failures: list[Exception] = []
    did_not = desk.note_request

    def noting(method: str, params: Any = None, *, failed: Callable[[Exception], None], **others: Any) -> Any:
        return did_not(method, params, failed=lambda error: (failures.append(error), failed(error)), **others)

    desk.client.request = noting
    begin_long_job(desk, moment, desk.session.cancel)
    desk.client.request = did_not
    assert desk.the_end() == ("cancelled", None)
    if moment in ("preprocessing", "computing"):
        spin(lambda: failures, seconds=10)
        assert type(failures[0]).__name__ == "Cancelled"
    if moment in ("hand-over", "the request"):
        assert list(desk.client.folder.iterdir()) == []
    starts = desk.client.starts
    desk.known.assert_same(desk.answers(desk.ticked("one"))["One"], "One")
    # A start that nothing was asked of yet is not made.
    assert desk.client.starts == starts + (moment == "the start")


def test_cancel_while_the_process_starts_keeps_the_process(desk: Desk) -> None:
    desk.session.close()
    desk.reset()
    desk.session.classify(desk.ticked("one"))
    assert desk.session.state is State.STARTING and not desk.client.ready
    desk.session.cancel()
    assert desk.the_end() == ("cancelled", None)
    starts = desk.client.starts
    desk.known.assert_same(desk.answers(desk.ticked("one"))["One"], "One")
    assert desk.client.starts == starts


def test_cancelling_when_idle_does_nothing(desk: Desk) -> None:
    desk.session.cancel()
    assert desk.told.ends == [] and desk.told.states == []


@pytest.mark.parametrize("moment", ["load", "hand-over", "computing"])
def test_closing_in_mid_job_ends_the_worker_and_its_folder(desk: Desk, moment: str) -> None:
    seen: list[Any] = []

    def close() -> None:
        seen.append((desk.client.pid, desk.client.folder))
        desk.session.close()
        desk.told.ends.append(("closed", None))

    begin_long_job(desk, moment, close)
    assert desk.told.ends == [("closed", None)] and not desk.session.busy
    spin(lambda: desk.client.gone)
    ((pid, folder),) = seen
    assert not psutil.pid_exists(pid) and not folder.exists()
    assert list(desk.known.folder.glob("anymc3d-worker-*")) == []
    assert desk.told.ends == [("closed", None)]


@UNIX
@pytest.mark.parametrize("moment", ["load", "hand-over", "computing"])
def test_a_killed_worker_is_reported_and_replaced(desk: Desk, moment: str) -> None:
    begin_long_job(desk, moment, lambda: os.kill(desk.client.pid, signal.SIGKILL))
    word, sentence = desk.the_end()
    assert word == "failed" and "killed" in sentence and "\n" not in sentence
    starts = desk.client.starts
    desk.known.assert_same(desk.answers(desk.ticked("one"))["One"], "One")
    assert desk.client.starts == starts + 1


@UNIX
def test_an_answer_of_a_worker_that_is_gone_cannot_be_rendered(desk: Desk) -> None:
    desk.answers(desk.ticked("one"))
    os.kill(desk.client.pid, signal.SIGKILL)
    spin(lambda: desk.client.gone)
    assert "classify the study again" in desk.heat("One", "lesion")


def test_a_missing_python_is_told_by_the_session(known: Known) -> None:
    desk = Desk(known, python=known.folder / "no python")
    assert "cannot be started" in desk.failure(desk.ticked("one"))
    assert "cannot be started" in desk.failure(desk.ticked("one"))


def test_plugins_are_grouped_by_what_they_share(known: Known) -> None:
    desk = Desk(known)
    image, again, other = desk.image, desk.image, Image(desk.known.image.copy(), desk.known.affine)
    (one,) = desk.ticked("one", images={"image": image})
    (three,) = desk.ticked("three", images={"image": again})
    (box,) = desk.ticked("box", images={"image": other})
    (second,) = desk.ticked("other", images={"image": image})
    assert grouped_by_backbone([one, second, three, box]) == [[one, three, box], [second]]
    assert grouped_by_study([one, box, three]) == [[one, three], [box]]
    assert desk.client.starts == 0


@pytest.mark.slow
def test_handing_over_a_large_volume_does_not_stop_the_event_loop(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (400, 512, 512), dtype=np.int16)
    image = Image(array, np.diag([0.5, 0.5, 0.7, 1.0]))
    gap, told = LongestGap(), desk.told.changed

    def changed(state: State) -> None:
        told(state)
        if state is State.HANDING_OVER:
            gap.start()
        elif state is State.CLASSIFYING:
            gap.stop()
            desk.session.cancel()

    with monkeypatch.context() as patch:
        patch.setattr(desk.told, "changed", changed)
        assert desk.end(desk.ticked("one", images={"image": image})) == ("cancelled", None)
    assert 0 < gap.seconds < 0.1
