"""What the faults of files share: small good files, the answers they give, and what watches over a case.

All that is built is built once a process, in a folder that goes with it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from networks import plugin_spec, randomised, tiny_backbone, write_plugin
from volumes import study

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.plugin import DIGEST_KEY, METADATA_KEY
from AnyMC3DLib.prediction import Prediction, Study

# Far above what a case takes, on a busy machine too, which gives a tenth of a core.
DEADLINE_S = 180.0
MOST_MEGABYTES = 200

_scratch = tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True)

# What a field of JSON may hold instead of what belongs there.
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["", "../../x", "a\0b", "\ud800", "=1+1", "1e999", "x" * 5000, 1 << 70, -1, 0, 1e308, 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


class _TooLongError(BaseException):
    """Past the deadline; no `except Exception` of the library may swallow it."""


def scratch() -> Path:
    """A folder that lasts as long as the process."""
    return Path(_scratch.name)


@functools.cache
def backbone() -> Backbone:
    """A small random backbone, named as the catalogue's rule for timm's models has it."""
    torch.set_num_threads(1)
    return tiny_backbone("test_vit", depth=1)


@functools.cache
def good_plugin() -> bytes:
    """A plugin file of one member on `backbone`."""
    return write_plugin(scratch() / "good.safetensors", backbone()).read_bytes()


@functools.cache
def good_study() -> Study:
    """The one image that all plugins here are asked about."""
    return Study({"image": study()})


def answer_of(file: Path) -> Prediction:
    """What the plugin file says of the good study; raises what loading and classifying raise."""
    engine = Classifier(backbone())
    name = engine.load(file)
    try:
        return engine.classify(good_study(), plugins=[name], maps="none")[name]
    finally:
        engine.unload(name)


@functools.cache
def good_answer() -> Prediction:
    """What the good plugin says of the good study."""
    place = scratch() / "asked.safetensors"
    place.write_bytes(good_plugin())
    return answer_of(place)


@functools.cache
def answer_with_maps() -> Prediction:
    """The good plugin's answer with all its maps."""
    place = scratch() / "maps.safetensors"
    place.write_bytes(good_plugin())
    engine = Classifier(backbone())
    name = engine.load(place)
    try:
        return engine.classify(good_study(), maps="all")[name]
    finally:
        engine.unload(name)


@functools.cache
def plugin_tensors() -> dict[str, torch.Tensor]:
    """The tensors of a plugin of `plugin_spec`, as its file keeps them, without the number of the member."""
    network = randomised(PluginNetwork(plugin_spec(backbone()), backbone()))
    network.close()
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def told(work: Callable[[], Any]) -> tuple[Any, InputError | AnyMC3DError | None]:
    """What the work gives, or what the shell would tell a person of its failure."""
    try:
        return work(), None
    except AnyMC3DError as error:
        return None, error
    except OSError as error:
        return None, InputError(f"The system refused: {error.strerror}.")


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors' bytes of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Mapping[str, Any] | bytes, data: bytes) -> bytes:
    """A safetensors file of this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def undigested(header: dict[str, Any], spec: Any) -> dict[str, Any]:
    """The header of a plugin with another description, as a program writes it that knows no digest of a file."""
    metadata = {k: v for k, v in header["__metadata__"].items() if k != DIGEST_KEY}
    return {**header, "__metadata__": {**metadata, METADATA_KEY: json.dumps(spec)}}


def places_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path to each value within JSON values, inner nodes too."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*path, key)
        yield from places_in(item, (*path, key))


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    """What lies at a path."""
    for key in path:
        value = value[key]
    return value


def with_value(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """A copy of JSON values with another at a path."""
    copy = json.loads(json.dumps(value))
    at(copy, path[:-1])[path[-1]] = new
    return copy


def listing(folder: Path) -> dict[str, str]:
    """All that lies below a folder, with digests of the files."""
    return {
        os.path.relpath(path, folder): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Path]:
    """Give a folder to work in; afterwards nothing beside it has changed, and time and memory were bounded."""
    inside = folder / "given"
    inside.mkdir()
    (folder / "beside.txt").write_text("nobody's but ours")
    (folder / "beside").mkdir()
    before = _beside(folder)
    with bounded():
        yield inside
    assert _beside(folder) == before, "something beside the given folder has changed"


def _beside(folder: Path) -> dict[str, str]:
    return {name: content for name, content in listing(folder).items() if not Path(name).is_relative_to("given")}


@contextlib.contextmanager
def bounded(*, seconds: float = DEADLINE_S, megabytes: int = MOST_MEGABYTES) -> Iterator[None]:
    """Fail where the block takes longer, or more memory over what was held before, than this."""

    def end(*_: object) -> None:
        raise _TooLongError

    _forget_peak()
    start = _peak_megabytes()
    old = signal.signal(signal.SIGALRM, end) if hasattr(signal, "SIGALRM") else None
    try:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    except _TooLongError as error:
        raise AssertionError(f"it took longer than {seconds:g} s") from error
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
    grown = _peak_megabytes() - start
    assert grown <= megabytes, f"it took {grown} MB"


def _forget_peak() -> None:
    """Let the kernel count the peak of this process's memory from now on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_megabytes() -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return int(found[1]) >> 10 if found else 0
