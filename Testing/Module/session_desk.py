"""A session on a worker with tiny plugins, and what its listener was told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import worker_desk
from AnyMC3DUI.plugin_folder import read_card
from AnyMC3DUI.session import ClassifySession, Doing, State, Ticked
from AnyMC3DUI.worker_client import WorkerClient
from worker_desk import Known, spin

from AnyMC3DLib.messages import LogNote
from AnyMC3DLib.workspace import BASE_VARIABLE


@dataclasses.dataclass(frozen=True)
class Image:
    array: npt.NDArray
    ijk_to_ras: Any
    label: int | None = None
    modality: str = ""


@dataclasses.dataclass(frozen=True)
class Box:
    low: tuple[float, float, float]
    high: tuple[float, float, float]


class Told:
    """What a listener was told, in order; `when` may act on it."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.doings: list[Doing] = []
        self.ends: list[tuple[str, Any]] = []
        self.when: Callable[[State, str], None] = lambda state, words: None

    @property
    def words(self) -> list[str]:
        return list(dict.fromkeys(doing.words for doing in self.doings))

    def changed(self, state: State) -> None:
        self.states.append(state)

    def progressed(self, doing: Doing) -> None:
        self.doings.append(doing)
        self.when(self.states[-1], doing.words)

    def finished(self, predictions: Mapping[str, Any]) -> None:
        self.ends.append(("finished", predictions))

    def failed(self, sentence: str) -> None:
        self.ends.append(("failed", sentence))

    def cancelled(self) -> None:
        self.ends.append(("cancelled", None))


class Desk:
    """One session on one worker for all tests here."""

    def __init__(self, known: Known, **options: Any) -> None:
        worker_desk.application()
        self.known = known
        self.log: list[LogNote] = []
        self.asked: list[str] = []
        environment = {BASE_VARIABLE: str(known.folder)}
        options = {"python": known.python, **options}
        self.client = WorkerClient(environment=environment, on_log=self.log.append, **options)
        self.told = Told()
        self.session = ClassifySession(self.client, self.told)
        self.request = self.client.request
        # An attribute of the instance, so that the session's requests pass here.
        self.client.request = self.note_request

    def note_request(self, method: str, params: Any = None, **callbacks: Any) -> Any:
        self.asked.append(method)
        return self.request(method, params, **callbacks)

    def reset(self) -> None:
        self.told.__init__()
        self.log.clear()
        self.asked.clear()

    @property
    def image(self) -> Image:
        return Image(self.known.image, self.known.affine)

    def ticked(self, *names: str, weights: str | None = None, **fields: Any) -> list[Ticked]:
        given = {"images": {"image": self.image}, **fields}
        of = {"other": "second"}
        return [
            Ticked(read_card(self.known.plugin(n)), weights=self.known.weights(weights or of.get(n, "first")), **given)
            for n in names
        ]

    def end(self, ticked: list[Ticked]) -> tuple[str, Any]:
        """Classify, and the one thing that came of it."""
        self.told.ends.clear()
        self.session.classify(ticked)
        spin(lambda: self.told.ends)
        return self.the_end()

    def the_end(self) -> tuple[str, Any]:
        assert len(self.told.ends) == 1 and self.told.states[-1] is State.IDLE and not self.session.busy
        return self.told.ends[0]

    def answers(self, ticked: list[Ticked]) -> Mapping[str, Any]:
        word, predictions = self.end(ticked)
        assert word == "finished", predictions
        return predictions

    def failure(self, ticked: list[Ticked]) -> str:
        word, sentence = self.end(ticked)
        assert word == "failed" and "\n" not in sentence
        return sentence

    def heat(self, plugin: str, class_name: str | None, **options: Any) -> npt.NDArray | str:
        came: list[Any] = []
        place = {"shape": self.known.image.shape, "ijk_to_ras": self.known.affine, **options}
        self.session.render(plugin, class_name, done=came.append, failed=came.append, **place)
        spin(lambda: came)
        return came[0]

    def acting(self, at: Callable[[State, str], bool], act: Callable[[], None]) -> None:
        """Have `act` done once, when the session tells that it is `at` something."""

        def when(state: State, words: str) -> None:
            if at(state, words):
                self.told.when = lambda *_: None
                act()

        self.told.when = when


def large_image(known: Known) -> Image:
    """The image with so many voxels that its slices take a second to cut."""
    array = np.kron(known.image, np.ones((10, 10, 10), dtype=np.float32)).astype(np.int16)
    affine = np.array(known.affine)
    affine[:3, :3] /= 10
    return Image(array, affine)
