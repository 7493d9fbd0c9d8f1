"""Lines to the worker: whatever comes, each has one answer or none as JSON-RPC says, and the worker works on."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hostile_files import Payload
from hypothesis import strategies as st
from networks import write_plugin
from shell import findable_backbone
from volumes import study

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.messages import METHODS, PROTOCOL_VERSION
from AnyMC3DLib.protocol import INTERNAL_ERROR, MAX_LINE, Decoder
from AnyMC3DLib.volume import write_volume
from AnyMC3DLib.worker_jobs import Jobs
from AnyMC3DLib.worker_server import Server
from AnyMC3DLib.workspace import Workspace

from .bench import JUNK, scratch, watched
from .fault import Fault, Outcome, refused

GROUP = "messages to the worker"
WAIT_S = 60.0
MARKER = "was-run"
IDENTITY = np.eye(4).tolist()
# In a request: the folder of the case, that of the worker, and good files.
HERE, WORKSPACE, PLUGIN, WEIGHTS, IMAGE = "@here@", "@workspace@", "@plugin@", "@weights@", "@image@"


class Desk:
    """A worker in this process with its real jobs; what it says is kept."""

    def __init__(self, base: Path) -> None:
        base.mkdir()
        self.workspace = Workspace(base)
        self._said: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._number = 0
        self.server = Server(self._send, self.workspace, Jobs, leave=lambda _: None)
        threading.Thread(target=self.server.run, daemon=True).start()
        backbone, self.weights = findable_backbone(base)
        self.plugin, self.image = write_plugin(base / "good.safetensors", backbone), base / "image.nrrd"
        write_volume(self.image, study())
        self.places = {
            WORKSPACE: self.workspace.path, PLUGIN: self.plugin, WEIGHTS: self.weights, IMAGE: self.image,
        }  # fmt: skip
        self.call("hello", protocol=PROTOCOL_VERSION)
        self.answer = self.classify()

    def _send(self, line: bytes) -> None:
        message = json.loads(line)
        if "method" not in message:
            with self._changed:
                self._said.append(message)
                self._changed.notify_all()

    def hear(self, data: bytes, pieces: int = 1) -> None:
        """The bytes as they would come through a pipe, in so many pieces."""
        decoder, size = Decoder(), max(1, len(data) // pieces)
        for start in range(0, len(data), size):
            for message in decoder.feed(data[start : start + size]):
                self.server.take(message)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The response to a good request."""
        self._number += 1
        name = f"own {self._number}"
        self.hear(json.dumps({"jsonrpc": "2.0", "id": name, "method": method, "params": params}).encode() + b"\n")
        with self._changed:
            found = self._changed.wait_for(lambda: [one for one in self._said if one["id"] == name], WAIT_S)
        assert found, f"'{method}' has no answer"
        return found[0]

    def classify(self) -> Mapping[str, float]:
        """What the good plugin says of the good image, through the worker."""
        loaded = self.call("load", path=str(self.plugin), weights=str(self.weights), device="cpu")
        assert "result" in loaded, loaded
        name = loaded["result"]["name"]
        found = self.call("classify", images={"image": {"file": str(self.image)}}, plugins=[name], maps="none")
        assert "result" in found, found
        return found["result"]["predictions"][name]["probabilities"]

    def others(self) -> list[dict[str, Any]]:
        """Take the responses to all that was not asked by `call`."""
        with self._changed:
            found = [one for one in self._said if not str(one["id"]).startswith("own ")]
            self._said.clear()
        return found


@functools.cache
def desk() -> Desk:
    """One worker for all cases."""
    return Desk(scratch() / "worker")


def ends(data: bytes, folder: Path, *, pieces: int = 1) -> Outcome:
    """Every line has its one answer, which is a result or a sentence; afterwards the worker answers as before."""
    worker = desk()
    with watched(folder) as inside:
        (folder / "given" / "there.csv").write_text("case,label,split,image\na,normal,train,none.nii\n")
        data = data.replace(HERE.encode(), json.dumps(str(inside))[1:-1].encode())
        for word, path in worker.places.items():
            data = data.replace(word.encode(), json.dumps(str(path))[1:-1].encode())
        worker.hear(data, pieces)
        assert worker.classify() == worker.answer, "the worker answers otherwise than before"
        # Jobs run in order, so all that was asked before is answered now.
        answers = worker.others()
        expected = [_expected(line) for line in data.split(b"\n")[:-1]]
        assert len(answers) == sum(expected), f"{len(answers)} answers to {sum(expected)} requests: {answers!r:.500}"
    for answer in answers:
        assert ("result" in answer) != ("error" in answer) and answer["jsonrpc"] == "2.0"
        if "error" in answer:
            assert answer["error"]["code"] != INTERNAL_ERROR, answer["error"]["message"]
            refused(InputError(answer["error"]["message"]))
    return Outcome.WORKED if all("result" in answer for answer in answers) else Outcome.REFUSED


def _expected(line: bytes) -> int:
    """How many answers JSON-RPC wants: none to a blank line and to a notification, else one."""
    if not line.strip():
        return 0
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return 1
    well = isinstance(message, dict) and message.get("jsonrpc") == "2.0" and isinstance(message.get("method"), str)
    silent = well and "id" not in message and isinstance(message.get("params", {}), dict)
    return 0 if silent and b"Infinity" not in line and b"NaN" not in line and b"e999" not in line else 1


def _line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _noise(case: tuple[bytes, int], folder: Path) -> Outcome:
    return ends(case[0] + b"\n", folder, pieces=case[1])


def _values(values: list[Any], folder: Path) -> Outcome:
    return ends(b"".join(map(_line, values)), folder)


def _deep(case: tuple[int, str, bool], folder: Path) -> Outcome:
    depth, text, whole = case
    inner = text * depth + ("1" + {"[": "]", '{"a":': "}"}[text] * depth) * whole
    line = f'{{"jsonrpc": "2.0", "id": "x", "method": "classify", "params": {{"images": {inner}}}}}\n'
    return ends(line.encode(), folder)


def _long(case: tuple[int, bytes], folder: Path) -> Outcome:
    """Lines beyond what is read are one error each, and what follows them is read."""
    size, letter = case
    worker = desk()
    with watched(folder):
        worker.hear(letter * (MAX_LINE + size) + b"\n" + _line({"jsonrpc": "2.0", "id": "x", "method": "resume"}), 5)
        assert worker.classify() == worker.answer
        assert [answer["id"] for answer in worker.others()] == [None, "x"]
    return Outcome.REFUSED


FITTING: dict[str, list[Any]] = {
    "path": [PLUGIN, PLUGIN, f"{HERE}/none.safetensors", f"{HERE}/there.csv", HERE, "", "a\0b", "../../x"],
    "weights": [WEIGHTS, WEIGHTS, None, f"{HERE}/there.csv", "/dev/null"],
    "device": ["cpu", "cpu", "auto", "cpu:7", "meta", "cuda:99", "tpu", "cpu:" + "9" * 30, "\u202e", "xla:0"],
    "images": [{"image": {"file": IMAGE}}, {"image": {"file": IMAGE}}, {"image": {"file": f"{HERE}/there.csv"}},
               {"image": {"array": f"{WORKSPACE}/x.npy", "ijk_to_ras": IDENTITY}},
               {"image": {"array": f"{HERE}/../beside.txt", "ijk_to_ras": IDENTITY}}, {},
               {"image": {"array": f"{WORKSPACE}/../../beside.txt", "ijk_to_ras": [[0.0] * 4] * 4}}],
    "regions": [{}, {"image": {"text": "box:1,2,3,4,5,nan"}}, {"image": {"text": f"{HERE}/there.csv:1"}},
                {"image": {"box": {"low": [0, 0, 0], "high": [1e308, 1, 1]}}}],
    "plugins": [None, ["Test"], ["none"], [], ["Test", "Test"]],
    "plugin": [None, "Test", f"{HERE}/there.csv"],
    "view": ["axial", {"name": "v"}, {"name": "v", "preprocessing": {"size": [8, 8]}}, "none"],
    "task": ["none", "", f"{HERE}/there.csv", {"plugin": {}}, {"plugin": None, "training": {"epochs": 0}}],
    "data": [f"{HERE}/there.csv", HERE, "/dev/null", f"{HERE}/none.npz"],
    "out": [f"{HERE}/out.safetensors", f"{HERE}/there.csv/x", "\0"],
    "run": [f"{HERE}/run", None], "cache": [None, f"{HERE}/cache"], "shape": [[2, 3, 4], [0, 1, 1], [1 << 40, 1, 1]],
    "ijk_to_ras": [IDENTITY, [[0.0] * 4] * 4], "request": ["own 1", 1, "none"], "protocol": [PROTOCOL_VERSION, 99],
    "epochs": [-(10**400), 0, 1.5], "folds": [2, 1], "job": ["none"], "name": ["Test", "none"],
    "method": ["lora", "full"],
}  # fmt: skip


def _mostly(often: st.SearchStrategy[Any], seldom: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 5).flatmap(lambda n: often if n else seldom)


@st.composite
def _requests(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Requests whose params fit partly."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        method = draw(st.sampled_from(sorted(METHODS)))
        names = [f.name for f in dataclasses.fields(METHODS[method]) if f.name != "extra"]
        given = {name: _mostly(st.sampled_from(FITTING.get(name, [None])), JUNK) for name in names}
        needed = {f.name for f in dataclasses.fields(METHODS[method]) if f.default is f.default_factory}
        required = {name: values for name, values in given.items() if name in needed and draw(st.integers(0, 9))}
        optional = {name: values for name, values in given.items() if name not in required}
        params = draw(st.fixed_dictionaries(required, optional=optional))
        odd = draw(
            _mostly(st.just({}), st.dictionaries(st.sampled_from(["extra", "class", "__class__"]), JUNK, max_size=1))
        )
        found.append({"jsonrpc": "2.0", "id": f"r{number}", "method": method, "params": {**params, **odd}})
    return found


def _asked(requests: list[dict[str, Any]], folder: Path) -> Outcome:
    return ends(b"".join(map(_line, requests)), folder)


def _pickled(case: tuple[str, bytes], folder: Path) -> Outcome:
    """Arrays that are pickles, or damaged, in the worker's folder: not run, and gone with their request."""
    kind, noise = case
    place = desk().workspace.new_file()
    bad = np.array([Payload(folder / "beside" / MARKER)], dtype=object)
    if kind == "pickle":
        np.save(place, bad, allow_pickle=True)
    else:
        np.save(place, np.arange(24.0).reshape(2, 3, 4))
        content = place.read_bytes()
        place.write_bytes({"cut": content[:-8], "noise": noise, "header": content[:10] + noise + content[10:],
                           "claims": content.replace(b"(2, 3, 4)", b"(9999999, 999999, 9999)")}[kind])  # fmt: skip
    image = {"array": str(place), "ijk_to_ras": IDENTITY}
    found = ends(
        _line({"jsonrpc": "2.0", "id": 1, "method": "classify", "params": {"images": {"image": image}}}), folder
    )
    assert not (folder / "beside" / MARKER).exists() and not place.exists()
    return found


KINDS = typing.get_args(typing.Literal["pickle", "cut", "noise", "header", "claims"])
SHELLS = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "1.0", 2.0, None]),
        "id": st.one_of(JUNK, st.sampled_from([1, "a", 1 << 60, "x" * 200, True, 1.0])),
        "method": st.sampled_from(["hello", "classify", "Hello", "__init__", "run", "", "resume"]) | JUNK,
        "params": JUNK | st.just({}), "result": JUNK, "error": JUNK, "more": JUNK,
    },
)  # fmt: skip
LINES = st.binary(max_size=80).filter(lambda line: b"\n" not in line)

FAULTS = [
    Fault(group=GROUP, name="binary noise, in pieces", quick=6, judge=_noise,
          cases=st.tuples(LINES, st.integers(1, 9))),
    Fault(group=GROUP, name="any JSON", cases=st.lists(JUNK, min_size=1, max_size=4), judge=_values, quick=6),
    Fault(group=GROUP, name="wrong versions, ids, methods, params; answers to nothing", judge=_values, quick=12,
          cases=st.lists(SHELLS, min_size=1, max_size=4), full=300),
    Fault(group=GROUP, name="deep nesting", quick=4, full=60, judge=_deep,
          cases=st.tuples(st.integers(30, 100_000), st.sampled_from(["[", '{"a":']), st.booleans())),
    Fault(group=GROUP, name="lines longer than a megabyte", quick=2, full=20, judge=_long,
          cases=st.tuples(st.integers(0, 3 << 20), st.sampled_from([b"x", b" ", b"[", b"\0"]))),
    Fault(group=GROUP, name="params of each method that fit partly, and paths out of the folder", quick=25, full=400,
          cases=_requests(), judge=_asked),
    Fault(group=GROUP, name="arrays that are pickles, damaged, or of endless size", quick=5, full=60, judge=_pickled,
          cases=st.tuples(st.sampled_from(KINDS), st.binary(max_size=60))),
]  # fmt: skip
