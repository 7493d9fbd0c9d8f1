"""Which plugins the worker holds, so that none is loaded twice, and none stays that nobody ticked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.messages import Load, ProgressNote, Unload
from AnyMC3DLib.records import Record

from .plugin_folder import PluginCard
from .worker_client import WorkerClient
from .worker_steps import Asking


@dataclasses.dataclass(frozen=True)
class _Version:
    """What tells one load of a plugin from another."""

    path: str
    stamp: tuple[int, int]
    weights: str | None
    device: str


class LoadedPlugins:
    """Kept by the answers of the worker, and empty once another worker has taken its place.

    There is one for each client, whoever uses it, and one user at a time.
    """

    @classmethod
    def of(cls, client: WorkerClient) -> LoadedPlugins:
        """That of the client."""
        if client.book is None:
            client.book = cls(client)
        return client.book

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._versions: dict[str, _Version] = {}
        self._start = 0
        self._user: object | None = None
        self.unanswered = 0

    @property
    def is_taken(self) -> bool:
        """Whether somebody loads and unloads, or works with what was loaded."""
        return self._user is not None

    def take(self, user: object) -> None:
        """Begin to load and unload; raises InputError while somebody else does."""
        if self._user is not None:
            raise InputError("A study is being classified: wait for it, or cancel it.")
        self._user = user
        # What is cancelled and has no answer yet may still change what the worker holds.
        if self.unanswered:
            self._versions = {}

    def give_back(self, user: object) -> None:
        """Let others load and unload."""
        if self._user is user:
            self._user = None

    def has(self, card: PluginCard, weights: str | None, device: str) -> bool:
        """Whether the worker holds this very file, on that device."""
        return self._known().get(card.name) == _version(card, weights, device)

    def load(
        self, card: PluginCard, weights: str | None, device: str, *, progress: Callable[[ProgressNote], None]
    ) -> Asking:
        """The step of loading a plugin."""
        version = _version(card, weights, device)

        def took(answer: Mapping[str, Any]) -> None:
            versions = self._known()
            for name in answer["unloaded"]:
                versions.pop(name, None)
            versions[answer["name"]] = version

        params = Load(path=str(card.path), weights=weights, device=device)
        return _Changing(self, took, self._client, "load", params, progress=progress)

    def unload_all_but(self, cards: Sequence[PluginCard], device: str) -> list[Asking]:
        """The steps of unloading every other plugin: the old backbone then goes before a new one comes."""
        wanted = {card.name for card in cards}
        others = [name for name, v in self._known().items() if name not in wanted or v.device != device]
        return [self._unload(name) for name in others]

    def _unload(self, name: str) -> Asking:
        def took(_: Any) -> None:
            self._known().pop(name, None)

        return _Changing(self, took, self._client, "unload", Unload(name=name))

    def _known(self) -> dict[str, _Version]:
        if self._start != self._client.starts:
            self._versions, self._start = {}, self._client.starts
        return self._versions


class _Changing(Asking):
    """A request that changes what the worker holds, also if it was cancelled too late."""

    def __init__(
        self,
        book: LoadedPlugins,
        took: Callable[[Any], None],
        client: WorkerClient,
        method: str,
        params: Record,
        *,
        progress: Callable[[ProgressNote], None] | None = None,
    ) -> None:
        super().__init__(client, method, params, progress=progress)
        self._book, self._took = book, took

    def begin(self, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        """As `Step.begin`."""
        self._book.unanswered += 1
        super().begin(done, failed)

    def succeeded(self, result: Any) -> None:
        """As `Asking.succeeded`."""
        self._book.unanswered -= 1
        self._took(result)
        super().succeeded(result)

    def did_not(self, error: Exception) -> None:
        """As `Asking.did_not`."""
        self._book.unanswered -= 1
        super().did_not(error)


def _version(card: PluginCard, weights: str | None, device: str) -> _Version:
    try:
        status = card.path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
    except OSError:
        stamp = (0, 0)
    return _Version(str(card.path), stamp, weights, device)
