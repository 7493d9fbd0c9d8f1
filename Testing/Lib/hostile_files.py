"""Weights that are damaged, or made to harm: each builder changes the folder of a small good DINOv2.

A builder returns what is to be read. Payloads touch `marker`, which must never appear.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from stored import small_vit, tensors_of

Builder = Callable[[Path, Path], Path]

FIRST = "embeddings.cls_token"
MATRIX = "encoder.layer.0.attention.attention.query.weight"


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.marker,))


def weights_of(folder: Path) -> Path:
    return folder / "model.safetensors"


def split(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of the folder's file."""
    content = weights_of(folder).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(folder: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    weights_of(folder).write_bytes(struct.pack("<Q", size) + text + data)
    return folder


def truncated(share: float) -> Builder:
    def build(folder: Path, _: Path) -> Path:
        content = weights_of(folder).read_bytes()
        weights_of(folder).write_bytes(content[: int(len(content) * share)])
        return folder

    return build


def truncated_by(count: int) -> Builder:
    def build(folder: Path, _: Path) -> Path:
        content = weights_of(folder).read_bytes()
        weights_of(folder).write_bytes(content[:count])
        return folder

    return build


def flipped(share: float, bit: int = 0x80) -> Builder:
    """One bit within the header is another."""

    def build(folder: Path, _: Path) -> Path:
        content = bytearray(weights_of(folder).read_bytes())
        length = struct.unpack("<Q", content[:8])[0]
        content[8 + int(length * share)] ^= bit
        weights_of(folder).write_bytes(content)
        return folder

    return build


def header(change: Callable[[dict[str, Any]], Any]) -> Builder:
    """The header is changed in place, or replaced by what `change` returns."""

    def build(folder: Path, _: Path) -> Path:
        old, data = split(folder)
        new = change(old)
        return put(folder, old if new is None else new, data)

    return build


def item(name: str, **fields: Any) -> Builder:
    return header(lambda old: old[name].update(fields))


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Builder:
    """Other tensors in a well-formed file."""

    def build(folder: Path, _: Path) -> Path:
        values = tensors_of(folder)
        change(values)
        save_file(values, weights_of(folder))
        return folder

    return build


def pth(make: Callable[[dict[str, torch.Tensor], Path], Any], **options: Any) -> Builder:
    """A file of PyTorch's with what `make` gives."""

    def build(folder: Path, marker: Path) -> Path:
        values = tensors_of(folder)
        weights_of(folder).unlink()
        torch.save(make(values, marker), folder / "pytorch_model.bin", **options)
        return folder

    return build


def raw(make: Callable[[dict[str, torch.Tensor], Path], bytes]) -> Builder:
    """A file of PyTorch's name with any bytes."""

    def build(folder: Path, marker: Path) -> Path:
        values = tensors_of(folder)
        weights_of(folder).unlink()
        (folder / "pytorch_model.bin").write_bytes(make(values, marker))
        return folder

    return build


def saved_bytes(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def rezipped(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Builder:
    """PyTorch's archive with other contents."""

    def make(values: dict[str, torch.Tensor], _: Path) -> bytes:
        result = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(saved_bytes(values))) as old, zipfile.ZipFile(result, "w", compression) as new:
            for name in old.namelist():
                new.writestr(name, change(name, old.read(name)))
        return result.getvalue()

    return raw(make)


def bomb(_: dict[str, torch.Tensor], __: Path) -> bytes:
    """A few kilobytes of archive for each megabyte of zeros."""
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        with archive.open("archive/data/0", "w") as stream:
            for _ in range(500):
                stream.write(bytes(1 << 20))
    return result.getvalue()


def larger_sizes(values: dict[str, torch.Tensor], _: Path) -> bytes:
    """Every size in the archive's list of contents is said to be a gigabyte."""
    content = bytearray(saved_bytes(values))
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        content[place + 20 : place + 28] = struct.pack("<II", 1 << 30, 1 << 30)
        place = content.find(b"PK\x01\x02", place + 4)
    return bytes(content)


def script(_: dict[str, torch.Tensor], __: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version", "code/__torch__.py"):
            archive.writestr(f"archive/{name}", pickle.dumps({}, protocol=2))
    return stream.getvalue()


def calling(module: str, name: str, argument: bytes, *, times: int = 1) -> bytes:
    """A pickle that calls a function that PyTorch's reader allows, some times over."""
    call = f"c{module}\n{name}\n".encode() + argument + b"\x85R"
    return b"\x80\x02](" + call * times + b"e."


def pickled(content: bytes) -> Builder:
    """PyTorch's archive with another pickle."""
    return rezipped(lambda name, old: content if name.endswith("data.pkl") else old)


def legacy_claim(*_: Any) -> bytes:
    """A legacy file whose storage is said to hold 10^12 numbers."""
    content = saved_bytes({FIRST: torch.zeros(3)}, _use_new_zipfile_serialization=False)
    return content.replace(b"K\x03N", b"\x8a\x06" + struct.pack("<Q", 10**12)[:6] + b"N", 1)


# Pickle itself writes none so deep.
WRAPPERS = b"\x80\x02" + b"}X\x05\x00\x00\x00model" * 1000 + b"}" + b"s" * 1000 + b"."
LISTS = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
# A dict of 100,000 numbers that is kept as 1, and what may be made of it a thousand times by few bytes each.
LARGE = b"\x80\x02}(" + b"".join(b"J" + struct.pack("<i", n) + b"K\x00" for n in range(100_000)) + b"uq\x01"


def copied(call: bytes) -> bytes:
    """A pickle that lets a thousand things be made of one large dict."""
    return LARGE + b"](" + call * 1000 + b"e."


def of_a_large_shape(values: dict[str, torch.Tensor], _: Path) -> Any:
    """Tensors of one value and 100,000 axes."""
    return {**values, **{f"t{n}": torch.zeros(1).reshape([1] * 100_000) for n in range(20)}}


def of_parts_twice(values: dict[str, torch.Tensor], _: Path) -> bytes:
    """An archive with two pickles of one name."""
    stream = io.BytesIO(saved_bytes(values))
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("archive/data.pkl", copied(b"ccollections\nOrderedDict\nh\x01\x85R"))
    return stream.getvalue()


def renamed(change: Callable[[str], str], content: bytes) -> Builder:
    """PyTorch's archive with another pickle, and with other names of its parts."""

    def make(values: dict[str, torch.Tensor], _: Path) -> bytes:
        result = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(saved_bytes(values))) as old, zipfile.ZipFile(result, "w") as new:
            for name in old.namelist():
                new.writestr(change(name), content if name.endswith("data.pkl") else old.read(name))
        return result.getvalue()

    return raw(make)


def with_hidden_name(content: bytes) -> Builder:
    """An archive whose pickle has another name in a field that some readers believe, and PyTorch's does not."""

    def make(values: dict[str, torch.Tensor], _: Path) -> bytes:
        result = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(saved_bytes(values))) as old, zipfile.ZipFile(result, "w") as new:
            for name in old.namelist():
                part = zipfile.ZipInfo(name)
                if name.endswith("data.pkl"):
                    other = b"archive/notes"
                    checked = b"\x01" + struct.pack("<I", zlib.crc32(name.encode())) + other
                    part.extra = struct.pack("<HH", 0x7075, len(checked)) + checked
                new.writestr(part, content if name.endswith("data.pkl") else old.read(name))
        return result.getvalue()

    return raw(make)


TEXT = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"q\x01"


def config(text: bytes) -> Builder:
    def build(folder: Path, _: Path) -> Path:
        (folder / "config.json").write_bytes(text)
        return folder

    return build


def setting(**fields: Any) -> Builder:
    def build(folder: Path, _: Path) -> Path:
        place = folder / "config.json"
        place.write_text(json.dumps({**json.loads(place.read_text()), **fields}))
        return folder

    return build


def processor(**fields: Any) -> Builder:
    def build(folder: Path, _: Path) -> Path:
        (folder / "preprocessor_config.json").write_text(json.dumps(fields))
        return folder

    return build


def timm_config(**fields: Any) -> Builder:
    """A network of timm's with its config."""

    def build(folder: Path, _: Path) -> Path:
        save_file(small_vit().state_dict(), weights_of(folder))
        (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", **fields}))
        return folder

    return build


def large_config(folder: Path, _: Path) -> Path:
    os.truncate(folder / "config.json", 100 << 20)
    return folder


def index(*names: Any) -> Builder:
    def build(folder: Path, _: Path) -> Path:
        parts = {f"tensor{n}": name for n, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
        return folder

    return build


def twice(folder: Path, marker: Path) -> Path:
    (folder / "copy.safetensors").write_bytes(weights_of(folder).read_bytes())
    return index("model.safetensors", "copy.safetensors")(folder, marker)


def linked(name: str, *, part: bool = False) -> Builder:
    """A file of the folder is a link to one elsewhere."""

    def build(folder: Path, marker: Path) -> Path:
        elsewhere = marker.parent / f"elsewhere-{name}"
        (folder / name).replace(elsewhere)
        (folder / name).symlink_to(elsewhere)
        return index(name)(folder, marker) if part else folder

    return build


def huge_sparse(folder: Path, _: Path) -> Path:
    """A gigabyte of header that takes no place on the disk."""
    weights_of(folder).write_bytes(struct.pack("<Q", 1 << 30))
    os.truncate(weights_of(folder), (1 << 30) + 8)
    return folder


def pipe(folder: Path, _: Path) -> Path:
    weights_of(folder).unlink()
    os.mkfifo(weights_of(folder))
    return folder


def of_repeated_storage(values: dict[str, torch.Tensor], _: Path) -> Any:
    """A thousand blocks cut from one small array."""
    one = torch.zeros(1 << 18)
    return {**values, **{f"encoder.layer.{n}.norm1.weight": one.view(-1) for n in range(2, 1000)}}


def swap_names(old: dict[str, Any]) -> None:
    old["embeddings.dragon"] = old.pop(FIRST)


def numbered(number: str) -> Builder:
    def change(old: dict[str, Any]) -> None:
        old[f"encoder.layer.{number}.norm1.weight"] = old.pop("encoder.layer.1.norm1.weight")

    return header(change)


def overlapping(old: dict[str, Any]) -> None:
    same = [name for name in old if old[name].get("shape") == old[MATRIX]["shape"] and name != MATRIX]
    old[same[0]]["data_offsets"] = old[MATRIX]["data_offsets"]


def doubled(folder: Path, _: Path) -> Path:
    old, data = split(folder)
    text = json.dumps(old)
    return put(folder, f'{text[:-1]}, "{FIRST}": {json.dumps(old[FIRST])}}}'.encode(), data)


def many(old: dict[str, Any]) -> dict[str, Any]:
    return {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(9_000)}


def mixed(name: str, value: Any) -> Builder:
    return tensors(lambda values: values.__setitem__(name, value(values[name])))


def in_first(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        result = copy.deepcopy(tensor)
        result.view(-1)[1] = number
        return result

    return change


def tar(*_: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("pickle", "storages", "tensors", "sys_info"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return stream.getvalue()


FILES: dict[str, Builder] = {
    **{f"cut to {count} bytes": truncated_by(count) for count in (0, 1, 7, 8, 9, 100)},
    **{f"cut to {share:.0%}": truncated(share) for share in (0.01, 0.05, 0.2, 0.5, 0.9, 0.999)},
    **{f"a bit flipped at {share:.0%} of the header": flipped(share) for share in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999)},
    "an opening brace flipped": flipped(0, 1),
    "a length of 2^63": lambda f, _: put(f, *split(f), length=1 << 63),
    "a length beyond the file": lambda f, _: put(f, *split(f), length=1 << 24),
    "a length too short": lambda f, _: put(f, *split(f), length=40),
    "a header of a gigabyte": huge_sparse,
    "a header of deep JSON": lambda f, _: put(f, b'{"a":' * 200_000),
    "a header of many empty lists": lambda f, _: put(f, b"[" + b"[]," * 320_000 + b"[]]"),
    "a header that is a list": lambda f, _: put(f, []),
    "a header that is null": lambda f, _: put(f, b"null"),
    "a header that is no text": lambda f, _: put(f, b"\xff" * 64),
    "no tensors": lambda f, _: put(f, {}),
    "nine thousand tensors": header(many),
    "a tensor that is null": header(lambda old: old.__setitem__(FIRST, None)),
    "metadata of numbers": header(lambda old: old.__setitem__("__metadata__", {"format": 3})),
    "an unknown type": item(FIRST, dtype="F33"),
    "a type in small letters": item(FIRST, dtype="f32"),
    "a type that is a number": item(FIRST, dtype=32),
    "a type of half the size": item(FIRST, dtype="F16"),
    "a renamed tensor": header(swap_names),
    "an empty name": header(lambda old: old.__setitem__("", old.pop(FIRST))),
    "a name with a line end": header(lambda old: old.__setitem__("a\nb", old.pop(FIRST))),
    "a name with colours": header(lambda old: old.__setitem__("\x1b[31ma", old.pop(FIRST))),
    "a name of ten thousand letters": header(lambda old: old.__setitem__("a" * 10_000, old.pop(FIRST))),
    "a block of the number 10^12": numbered("1000000000000"),
    "a block of a number of 5000 digits": numbered("1" * 150),
    "a block of Arabic digits": numbered("\u0661"),
    "another shape of as many values": item(FIRST, shape=[2, 1, 16]),
    "a flat shape": item(MATRIX, shape=[32 * 32]),
    "a shape of more values": item(FIRST, shape=[1, 1, 33]),
    "a negative shape": item(FIRST, shape=[-1, -1, 32]),
    "a shape of fractions": item(FIRST, shape=[1.0, 1, 32]),
    "a shape that overflows": item(FIRST, shape=[1 << 62, 1 << 62, 32]),
    "a shape of no axes": item(FIRST, shape=[]),
    "an empty tensor": item(FIRST, shape=[0], data_offsets=[0, 0]),
    "offsets out of the file": item(FIRST, data_offsets=[1 << 40, (1 << 40) + 128]),
    "offsets the wrong way round": header(lambda old: old[FIRST]["data_offsets"].reverse()),
    "negative offsets": item(FIRST, data_offsets=[-128, 0]),
    "offsets that overlap": header(overlapping),
    "offsets that are texts": item(FIRST, data_offsets=["0", "128"]),
    "a name twice": doubled,
    "bytes behind the tensors": lambda f, _: put(f, split(f)[0], split(f)[1] + b"more"),
    "a hole between the tensors": lambda f, _: put(f, split(f)[0], b"more" + split(f)[1]),
    "a missing tensor": tensors(lambda values: values.pop(MATRIX)),
    "a tensor too many": tensors(lambda values: values.__setitem__("embeddings.dragon", torch.ones(2))),
    "whole numbers": mixed(MATRIX, torch.Tensor.long),
    "yes and no": mixed(MATRIX, lambda tensor: tensor > 0),
    "bytes as weights": mixed(FIRST, lambda tensor: tensor.to(torch.uint8)),
    "NaN": mixed(MATRIX, in_first(float("nan"))),
    "infinity": mixed(FIRST, in_first(float("inf"))),
    "a missing block": tensors(lambda v: [v.pop(n) for n in list(v) if n.startswith("encoder.layer.0.")]),
    "patches of one axis": mixed("embeddings.patch_embeddings.projection.weight", lambda t: t.flatten().contiguous()),
    "a network of a small file and much memory": mixed(
        "embeddings.patch_embeddings.projection.weight", lambda _: torch.zeros(200_000, 1, 1, 1)
    ),
    "positions of no square": mixed("embeddings.position_embeddings", lambda t: t[:, :4].contiguous()),
    # Files of PyTorch's
    "a payload in an archive": pth(lambda values, marker: {**values, "bad": Payload(marker)}),
    "a payload alone": pth(lambda _, marker: Payload(marker)),
    "a payload in a legacy file": pth(
        lambda values, marker: {**values, "bad": Payload(marker)}, _use_new_zipfile_serialization=False
    ),
    **{
        f"a payload in a plain pickle of protocol {protocol}": raw(
            lambda _, marker, protocol=protocol: pickle.dumps(Payload(marker), protocol=protocol)
        )
        for protocol in (0, 2, 4, 5)
    },
    "a payload behind PyTorch's magic number": raw(
        lambda _, marker: pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(Payload(marker), protocol=2)
    ),
    "a payload in a compressed file": raw(lambda _, marker: gzip.compress(pickle.dumps(Payload(marker)))),
    "a TorchScript program": raw(script),
    "a compressed archive": rezipped(lambda _, content: content, zipfile.ZIP_DEFLATED),
    "an archive that unfolds to half a gigabyte": raw(bomb),
    "an archive that claims larger sizes": raw(larger_sizes),
    "an archive without its pickle": rezipped(lambda n, content: b"" if n.endswith("data.pkl") else content),
    "an archive whose pickle is in capital letters": renamed(
        lambda name: name.replace("data.pkl", "data.PKL"), copied(b"ccollections\nOrderedDict\nh\x01\x85R")
    ),
    "an archive whose names are all in capital letters": renamed(
        str.upper, copied(b"ccollections\nOrderedDict\nh\x01\x85R")
    ),
    "an archive whose pickle ends in capital letters and has a good one beside it": renamed(
        lambda name: name.replace("data.pkl", "Data.Pkl").replace("byteorder", "more.PKL"),
        copied(b"ccollections\nOrderedDict\nh\x01\x85R"),
    ),
    "a TorchScript program in capital letters": renamed(
        lambda name: name.replace("byteorder", "CONSTANTS.PKL"), pickle.dumps({}, protocol=2)
    ),
    "an archive whose pickle has a second name": with_hidden_name(copied(b"ccollections\nOrderedDict\nh\x01\x85R")),
    "an archive without its data": rezipped(lambda n, content: b"" if "/data/" in n else content),
    "an archive with half its data": rezipped(lambda n, content: content[::2] if "/data/" in n else content),
    **{
        f"an archive cut to {share:.0%}": raw(
            lambda values, _, share=share: saved_bytes(values)[: int(len(saved_bytes(values)) * share)]
        )
        for share in (0.001, 0.3, 0.7, 0.99)
    },
    "an archive of the old layout": raw(tar),
    "an archive of arrays": raw(
        lambda *_: (stream := io.BytesIO(), np.savez(stream, a=np.zeros(3)), stream.getvalue())[2]
    ),
    "a tensor that repeats one value 10^12 times": pth(
        lambda values, _: {**values, FIRST: torch.zeros(1).as_strided((1, 1_000_000, 1_000_000), (0, 0, 0))}
    ),
    "a tensor that repeats one value 10^9 times": pth(
        lambda values, _: {**values, FIRST: torch.zeros(1).expand(10**9)}
    ),
    "a tensor of strides beyond what is stored": rezipped(
        lambda _, content: content.replace(b"K K\x01\x86", b"J\xff\xff\xff\x7fK\x01\x86")
    ),
    "tensors of 100,000 axes": pth(of_a_large_shape),
    "an archive of two pickles of one name": raw(of_parts_twice),
    **{
        f"a large dict that becomes {what} a thousand times": pickled(copied(call))
        for what, call in (
            ("an ordered one", b"ccollections\nOrderedDict\nh\x01\x85R"),
            ("an ordered one of its own name", b"ccollections\nOrderedDict\n(h\x01tR"),
            ("a set", b"c__builtin__\nset\nh\x01\x85R"),
            ("a count", b"ccollections\nCounter\nh\x01\x85R"),
            ("a size", b"ctorch\nSize\nh\x01\x85R"),
            ("attributes", b"ccollections\nOrderedDict\n)Rh\x01b"),
            ("a namespace", b"cargparse\nNamespace\n)\x81h\x01b"),
            ("a namespace with slots", b"cargparse\nNamespace\n)\x81h\x01N\x86b"),
        )
    },
    "a set of a long text's letters a thousand times": pickled(
        b"\x80\x02](" + TEXT + b"c__builtin__\nset\nh\x01\x85R" * 1000 + b"e."
    ),
    "many tensors cut from one": pth(of_repeated_storage),
    "a sparse tensor": pth(lambda values, _: {**values, MATRIX: values[MATRIX].to_sparse()}),
    "a sparse tensor of 10^18 values": pth(
        lambda v, _: {**v, MATRIX: torch.sparse_coo_tensor([[0], [0]], [1.0], (10**9, 10**9))}
    ),
    "a compressed sparse tensor": pth(lambda values, _: {**values, MATRIX: values[MATRIX].to_sparse_csr()}),
    "complex numbers": pth(lambda values, _: {**values, MATRIX: values[MATRIX].to(torch.complex64)}),
    "a tensor without memory": pth(lambda values, _: {**values, MATRIX: torch.empty(32, 32, device="meta")}),
    "quantised numbers": pth(lambda v, _: {**v, MATRIX: torch.quantize_per_tensor(v[MATRIX], 0.1, 0, torch.qint8)}),
    "whole numbers of PyTorch's": pth(lambda values, _: {**values, MATRIX: values[MATRIX].int()}),
    "NaN of PyTorch's": pth(lambda values, _: {**values, MATRIX: in_first(float("nan"))(values[MATRIX])}),
    "wrappers of 1000 layers": pickled(WRAPPERS),
    "a pickle of 200,000 layers": pickled(LISTS),
    "arrays beside the tensors": pth(lambda values, _: {**values, "array": np.zeros(3)}),
    "numbers beside the tensors": pth(lambda values, _: {**values, "epoch": 3}),
    "names that are numbers": pth(lambda values, _: dict(enumerate(values.values()))),
    "a list": pth(lambda values, _: list(values.values())),
    "a tensor alone": pth(lambda values, _: values[MATRIX]),
    "nothing by name": pth(lambda *_: {}),
    "a wrapper of nothing": pth(lambda *_: {"model": {}}),
    "a whole model": pth(lambda *_: torch.nn.Linear(2, 2)),
    "a gigabyte out of one call": pickled(calling("__builtin__", "bytearray", b"J" + struct.pack("<i", 1 << 30))),
    "a gigabyte out of a thousand calls": pickled(
        b"\x80\x02]("
        + TEXT
        + b"".join(b"c_codecs\nencode\nh\x01X\x05\x00\x00\x00utf-8\x86R" for _ in range(1000))
        + b"e."
    ),
    "a tensor of 10^9 values out of one call": pickled(calling("torch", "Tensor", b"J" + struct.pack("<i", 10**9))),
    "a tensor of 10^9 values as weights": pickled(
        b"\x80\x02}X\x01\x00\x00\x00actorch\nTensor\nJ" + struct.pack("<i", 10**9) + b"\x85Rs."
    ),
    "a legacy file that claims 10^12 values": raw(legacy_claim),
    "a legacy file cut in half": raw(
        lambda values, _: (whole := saved_bytes(values, _use_new_zipfile_serialization=False))[: len(whole) // 2]
    ),
    "a text": raw(lambda *_: b"weights\n" * 100),
    "nothing at all": raw(lambda *_: b""),
    # What lies beside
    "a config of 100 MB": large_config,
    "a config that is no JSON": config(b"{"),
    "a config that is a list": config(b"[1]"),
    "a config of deep JSON": config(b'{"a":' * 100_000),
    "a config that is no text": config(b"\xff\xfe\xfd"),
    "a config of a number of 10,000 digits": config(b'{"a": ' + b"1" * 10_000 + b"}"),
    **{
        f"{shown} heads": setting(num_attention_heads=value)
        for shown, value in (
            ("0", 0),
            ("-1", -1),
            ("7", 7),
            ("'12'", "12"),
            ("null", None),
            ("1e308", 1e308),
            ("true", True),
            ("10^30", 10**30),
            ("a list of", [2]),
            ("2.0", 2.0),
        )
    },
    "another library's kind": setting(model_type="bert"),
    "a kind of many lines": setting(model_type="a\nb\x1b[31m" * 50),
    "a kind that is a list": setting(model_type=["dinov2"] * 1000),
    "an epsilon of words": setting(layer_norm_eps="small"),
    "an epsilon of a megabyte": setting(layer_norm_eps="x" * (1 << 20)),
    "an infinite epsilon": setting(layer_norm_eps=float("inf")),
    "colours without spread": processor(image_std=[0, 0, 0]),
    "colours of negative spread": processor(image_std=[1, -1, 1]),
    "colours of words": processor(image_mean=["a", "b", "c"]),
    "colours of two numbers": processor(image_mean=[0.5, 0.5]),
    "colours of infinity": processor(image_mean=[float("inf")] * 3),
    "timm's network of 10^9 blocks": timm_config(model_args={"depth": 10**9}),
    "timm's network of endless width": timm_config(model_args={"embed_dim": 10**9}),
    "timm's network with other weights": timm_config(model_args={"checkpoint_path": "/etc/passwd"}),
    "timm's network of no name": timm_config(architecture="dragon"),
    "an index that leads out": index("../../etc/passwd"),
    "an index that leads out to weights": index("../model.safetensors"),
    "an index of a whole path": index("/etc/passwd.safetensors"),
    "an index with backslashes": index("..\\model.safetensors"),
    "an index of numbers": index(3),
    "an index of a long name": index("a" * 10_000 + ".safetensors"),
    "an index of a missing part": index("part.safetensors"),
    "an index of one part twice": twice,
    "a part that is a link": linked("model.safetensors", part=True),
    "weights that are a link": linked("model.safetensors"),
    "a config that is a link": linked("config.json"),
    "a pipe": pipe,
    "a file that is not there": lambda f, _: f / "none.safetensors",
    "a path with a zero": lambda f, _: f / "a\0b",
}
