"""Files of weights from elsewhere, changed at random: nothing is run, and what is taken in is what the file holds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hostile_files import Payload
from hypothesis import strategies as st
from networks import timm_model
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from AnyMC3DLib.backbone_import import import_backbone
from AnyMC3DLib.errors import AnyMC3DError

from .bench import JUNK, at, joined, places_in, split, watched, with_value
from .fault import Fault, Outcome, refused

GROUP = "weights from elsewhere"
CONFIG = {"architecture": "test_vit", "num_classes": 0, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
MARKER = "was-run"
SAFE, TORCH = "model.safetensors", "pytorch_model.bin"
# Counters that change no output are not kept, and half precision is widened when it is read.
Reader = Callable[[Path], Mapping[str, Tensor]]


@functools.cache
def good_tensors() -> dict[str, Tensor]:
    """The tensors of a small network of timm's."""
    return {name: tensor.clone().contiguous() for name, tensor in timm_model("test_vit").state_dict().items()}


@functools.cache
def safe_bytes() -> bytes:
    """They in a safetensors file."""
    return save(good_tensors())


@functools.cache
def warm() -> None:
    """Have all libraries in memory before a case's own is counted."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        (source / TORCH).write_bytes(torch_bytes())
        (source / "config.json").write_text(json.dumps(CONFIG))
        import_backbone(source, id="warm", folder=Path(folder) / "store")


@functools.cache
def torch_bytes() -> bytes:
    """They in a file of PyTorch's."""
    stream = io.BytesIO()
    torch.save(good_tensors(), stream)
    return stream.getvalue()


def ends(files: Mapping[str, bytes], folder: Path, *, config: Any = CONFIG) -> Outcome:
    """How the import of a folder with these files ends.

    Where it is taken in, the installed tensors are those that the libraries' own safe readers find in the file.
    """
    warm()
    with watched(folder) as inside:
        source, store = inside / "source", inside / "store"
        source.mkdir()
        for name, content in files.items():
            (source / name).write_bytes(content)
        (source / "config.json").write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
        try:
            record = import_backbone(source, id="some", folder=store)
        except AnyMC3DError as error:
            assert not store.exists() or not list(store.iterdir()), "a refused file left something"
            return refused(error, private=(str(inside),))
        finally:
            assert not (folder / "beside" / MARKER).exists(), "a payload was run"
        kept = load_file(store / "some.safetensors")
        stored = _independently(source / next(iter(files)))
        assert all(torch.isfinite(tensor).all() for tensor in kept.values())
        assert record.digest.startswith("sha256:")
        for name, tensor in kept.items():
            assert tensor.equal(stored[name].to(tensor.dtype).reshape(tensor.shape)), f"{name} is another"
    return Outcome.WORKED


def _independently(file: Path) -> Mapping[str, Tensor]:
    try:
        return load(file.read_bytes())
    except SafetensorError:
        assert zipfile.ZipFile(file).testzip() is None, "a damaged archive was taken in"
        # Mapped, a part may be longer than the values in it, which is no other value.
        return torch.load(file, weights_only=True, mmap=True)


def _flip(content: bytes, places: list[tuple[float, int]], *, until: float = 1.0) -> bytes:
    changed = bytearray(content)
    for share, bit in places:
        changed[int(share * until * (len(changed) - 1))] ^= 1 << bit
    return bytes(changed)


PLACES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=4)


def _safe_flipped(case: tuple[list[tuple[float, int]], float], folder: Path) -> Outcome:
    places, until = case
    return ends({SAFE: _flip(safe_bytes(), places, until=until)}, folder)


def _torch_flipped(case: tuple[list[tuple[float, int]], float], folder: Path) -> Outcome:
    places, until = case
    return ends({TORCH: _flip(torch_bytes(), places, until=until)}, folder)


def _cut(case: tuple[bool, float, bytes], folder: Path) -> Outcome:
    safe, share, tail = case
    content = safe_bytes() if safe else torch_bytes()
    return ends({SAFE if safe else TORCH: content[: int(share * len(content))] + tail}, folder)


def _header_junk(case: tuple[int, str, Any], folder: Path) -> Outcome:
    number, field, value = case
    header, data = split(safe_bytes())
    name = sorted(n for n in header if n != "__metadata__")[number % len(good_tensors())]
    if field == "name":
        header[str(value)] = header.pop(name)
    elif field == "entry":
        header[name] = value
    else:
        header[name][field] = value
    return ends({SAFE: joined(header, data)}, folder)


def _config_junk(case: tuple[int, Any], folder: Path) -> Outcome:
    number, value = case
    paths = list(places_in(CONFIG))
    path = paths[number % len(paths)]
    assert at(CONFIG, path) is not None
    return ends({SAFE: safe_bytes()}, folder, config=with_value(CONFIG, path, value))


def _config_noise(content: bytes, folder: Path) -> Outcome:
    return ends({SAFE: safe_bytes()}, folder, config=content)


def _archive(change: Callable[[str, bytes], list[tuple[str, bytes]]], *, packed: int = zipfile.ZIP_STORED) -> bytes:
    """The archive of PyTorch's with each of its parts replaced by what `change` gives."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_bytes())) as old, zipfile.ZipFile(result, "w", packed) as new:
        for name in old.namelist():
            for other, content in change(name, old.read(name)):
                new.writestr(other, content)
    return result.getvalue()


def _parts(case: tuple[str, int, bytes, bool], folder: Path) -> Outcome:
    """A part of the archive is gone, empty, cut, noise, twice or called otherwise."""
    kind, number, noise, compressed = case
    with zipfile.ZipFile(io.BytesIO(torch_bytes())) as archive:
        names = archive.namelist()
    chosen = names[number % len(names)]

    def change(name: str, content: bytes) -> list[tuple[str, bytes]]:
        if name != chosen:
            return [(name, content)]
        return {
            "gone": [], "empty": [(name, b"")], "cut": [(name, content[: len(content) // 2])],
            "noise": [(name, noise)], "behind": [(name, content + noise)], "upper": [(name.upper(), content)],
            "out": [(f"../../beside/{MARKER}", content)], "flipped": [(name, _flip(content, [(0.5, number % 8)]))],
            "more": [(name, content), ("archive/notes.pkl", noise)],
        }[kind]  # fmt: skip

    packed = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    return ends({TORCH: _archive(change, packed=packed)}, folder)


PARTS = ("gone", "empty", "cut", "noise", "behind", "upper", "out", "flipped", "more")


def _payload(case: tuple[float, int, bool, bool], folder: Path) -> Outcome:
    """A pickle that would touch a file, spliced somewhere into the good one, as an archive or alone."""
    share, protocol, alone, behind = case
    bad = pickle.dumps(Payload(folder / "beside" / MARKER), protocol=protocol)
    with zipfile.ZipFile(io.BytesIO(torch_bytes())) as archive:
        good = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    # Without the mark of the end, so that what follows is read too.
    place = int(share * len(good))
    spliced = good[:-1] + bad if behind else good[:place] + bad[:-1] + good[place:]
    if alone:
        return ends({TORCH: spliced}, folder)
    return ends({TORCH: _archive(lambda n, c: [(n, spliced if n.endswith("data.pkl") else c)])}, folder)


def _operations(case: tuple[list[tuple[float, bytes]], int], folder: Path) -> Outcome:
    """Bytes of the archive's pickle are replaced, so that other operations come of them."""
    places, _ = case

    def change(name: str, content: bytes) -> list[tuple[str, bytes]]:
        if not name.endswith("data.pkl"):
            return [(name, content)]
        changed = bytearray(content)
        for share, new in places:
            place = int(share * len(changed))
            changed[place : place + len(new)] = new
        return [(name, bytes(changed))]

    return ends({TORCH: _archive(change)}, folder)


def _noise(case: tuple[str, bytes], folder: Path) -> Outcome:
    name, content = case
    return ends({name: content}, folder)


def _tensors(case: tuple[str, int], folder: Path) -> Outcome:
    """Well-formed files of other tensors."""
    kind, number = case
    tensors = {name: tensor.clone() for name, tensor in good_tensors().items()}
    name = sorted(tensors)[number % len(tensors)]
    tensor = tensors[name]
    with contextlib.suppress(KeyError):
        tensors[name] = {
            "nan": torch.full_like(tensor, float("nan")), "infinite": torch.full_like(tensor, float("inf")),
            "half": tensor.half(), "double": tensor.double(), "whole": tensor.int(), "flat": tensor.reshape(-1, 1),
            "larger": torch.cat([tensor, tensor]), "scalar": tensor.reshape(-1)[0].clone(),
            "huge numbers": tensor * 1e30,
        }[kind]  # fmt: skip
    if kind == "missing":
        del tensors[name]
    if kind == "too many":
        tensors[f"{name}.more"] = tensor.clone()
    return ends({SAFE: save(tensors)}, folder)


TENSORS = ("nan", "infinite", "half", "double", "whole", "flat", "larger", "scalar", "huge numbers", "missing",
           "too many")  # fmt: skip
# The whole file, or its first part, where header and lists lie.
UNTIL = st.sampled_from([1.0, 0.02])
FIELDS = st.sampled_from(["name", "entry", "dtype", "shape", "data_offsets"])

FAULTS = [
    Fault(group=GROUP, name="safetensors: bits flipped", quick=5, full=100, judge=_safe_flipped,
          cases=st.tuples(PLACES, UNTIL)),
    Fault(group=GROUP, name="PyTorch's file: bits flipped", cases=st.tuples(PLACES, UNTIL), judge=_torch_flipped,
          quick=5, full=100),
    Fault(group=GROUP, name="cut off, or with more bytes behind", quick=4, full=100, judge=_cut,
          cases=st.tuples(st.booleans(), st.floats(0, 1), st.binary(max_size=20)).filter(lambda c: c[1] < 1 or c[2])),
    Fault(group=GROUP, name="the header names tensors, types, shapes and places by any JSON", quick=8, full=100,
          cases=st.tuples(st.integers(0, 999), FIELDS, JUNK), judge=_header_junk),
    Fault(group=GROUP, name="the config beside holds any JSON", cases=st.tuples(st.integers(0, 99), JUNK),
          judge=_config_junk, quick=8, full=100),
    Fault(group=GROUP, name="the config beside is noise", cases=st.binary(max_size=60), judge=_config_noise, quick=3,
          full=100),
    Fault(group=GROUP, name="an archive whose parts are gone, cut, noise or called otherwise", quick=8, full=100,
          cases=st.tuples(st.sampled_from(PARTS), st.integers(0, 999), st.binary(max_size=40), st.booleans()),
          judge=_parts),
    Fault(group=GROUP, name="a pickle that would run something, anywhere in the file", quick=6, full=100,
          judge=_payload,
          cases=st.tuples(st.floats(0, 1), st.integers(0, 5), st.booleans(), st.booleans())),
    Fault(group=GROUP, name="other operations in the pickle", quick=6, full=100, judge=_operations,
          cases=st.tuples(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), min_size=1,
                                   max_size=3), st.just(0))),
    Fault(group=GROUP, name="bytes of any kind", quick=4, full=100, judge=_noise,
          cases=st.tuples(st.sampled_from([SAFE, TORCH]), st.binary(max_size=200))),
    Fault(group=GROUP, name="tensors missing, too many, of other shapes, types and values", quick=6, judge=_tensors,
          cases=st.tuples(st.sampled_from(TENSORS), st.integers(0, 999)), full=150),
]  # fmt: skip
