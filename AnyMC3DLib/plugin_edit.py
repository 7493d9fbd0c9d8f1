"""Change what a plugin file says and where it decides, and read what a foreign file claims before it is accepted.

Needs the standard library alone: the tensors are copied byte by byte, and never looked into.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
import shutil
import struct
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .backbone_store import installed
from .catalogue import ANY_TIMM_MODEL, list_backbones
from .errors import InputError, PluginError
from .files import replacing
from .plugin import (
    DIGEST_KEY,
    LARGEST_HEADER,
    METADATA_KEY,
    check_content,
    content_digest,
    packed_header,
    read_spec,
)
from .records import mapping_of
from .spec import PluginSpec

REVISED = "revised"
FIELDS = ("name", "version", "description", "licence", "intended_use", "thresholds")
LONGEST_NAME = 80
LONGEST_TEXT = 2000
MOST_SHOWN = 100  # classes, figures
LARGE = 64 << 20
# What a plugin's tensors are, and the bytes of a value.
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
MOST_AXES = 16
LARGEST_AXIS = 1 << 63
# Those of `model.PluginNetwork`, behind the number of the member; the groups are names of views.
TENSOR_NAME = re.compile(
    r"[0-9]+\.(?:adapters\.([\w-]+)\.pairs\.[^.]+\.[AB]|fusions\.([\w-]+)\.query|(?:shift|scale)_([\w-]+)"
    r"|view_fusion\.query|head\.(?:weight|bias)|density\.(?:centre|scale|directions|variances|noise|limit))"
)
# They turn the order of what is read around: a name could look like another's.
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclasses.dataclass(frozen=True)
class Claims:
    """What a plugin file says of itself; nothing of it has been checked but that the file is whole.

    Every text is at most LONGEST_TEXT characters of one line, and empty where the file says nothing. It is plain text:
    what looks like HTML in it must not be shown as such. `values` and `tensor_bytes` are those of all tensors,
    `revised` says when and what was changed after the training, `warnings` are sentences.
    """

    name: str
    version: str
    task: str
    classes: tuple[str, ...]
    description: str
    licence: str
    intended_use: str
    backbone: str
    backbone_digest: str
    members: int
    values: int
    tensor_bytes: int
    date: str
    counts: str
    figures: tuple[str, ...]
    revised: str
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    values: int
    size: int


@dataclasses.dataclass(frozen=True)
class _Head:
    """What stands before the tensors of a plugin file, which begin at byte `start`."""

    spec: PluginSpec
    header: Mapping[str, Any]
    start: int
    tensors: tuple[_Tensor, ...]


def check_whole(path: str | Path) -> None:
    """Raise PluginError for what is no plugin, or is damaged or lacks a part, as after a broken download."""
    _head(Path(path))
    check_content(path)


def revise_plugin(
    path: str | Path,
    out: str | Path | None = None,
    *,
    name: str | None = None,
    version: str | None = None,
    description: str | None = None,
    licence: str | None = None,
    intended_use: str | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> PluginSpec:
    """Write the plugin with what is given changed to `out`, or in its own place, and return its spec.

    The tensors stay the same bytes; the file's digest is another one, since the file is. What was changed, and when, is
    kept in the provenance. `thresholds` are by class, of a binary plugin that of the positive class alone. Where
    nothing differs from what is there, nothing is changed, and `out` gets a plain copy. Raises PluginError for a file
    that is no plugin or damaged, and InputError for a name, a text or a threshold that cannot be, or where `out`
    cannot be written; the file that was there is then untouched.
    """
    source = Path(path)
    head = _head(source)
    check_content(source)
    given = {"name": name, "version": version, "description": description, "licence": licence}
    changes: dict[str, Any] = {
        field: _fit(field, value)
        for field, value in {**given, "intended_use": intended_use}.items()
        if value is not None and value != getattr(head.spec, field)
    }
    changes = {field: value for field, value in changes.items() if value != getattr(head.spec, field)}
    classes = _with_thresholds(head.spec, thresholds or {})
    fields = [*changes] + ["thresholds"] * (classes != head.spec.classes)
    if not fields:
        if out is not None and not _same(Path(out), source):
            _write(Path(out), b"", source, 0)
        return head.spec
    provenance = {**head.spec.provenance, REVISED: _record(head.spec, fields)}
    spec = dataclasses.replace(head.spec, **changes, classes=classes, provenance=provenance)
    _write(source if out is None else Path(out), _header_of(spec, head, source), source, head.start)
    return spec


def claims_of(path: str | Path) -> Claims:
    """What a file says, from its head alone; raises PluginError for what is no plugin, or a damaged one."""
    try:
        head = _head(Path(path))
    except PluginError as error:
        # It may quote what the file says.
        raise PluginError(_text(str(error))) from error
    spec, provenance = head.spec, head.spec.provenance
    figures, without_interval = _figures(provenance)
    return Claims(
        name=_text(spec.name),
        version=_text(spec.version),
        task=spec.task_type,
        classes=_few([_text(c.name, LONGEST_NAME) for c in spec.classes]),
        description=_text(spec.description),
        licence=_text(spec.licence),
        intended_use=_text(spec.intended_use),
        backbone=_text(spec.backbone.id),
        backbone_digest=_text(spec.backbone.digest),
        members=spec.members,
        values=sum(tensor.values for tensor in head.tensors),
        tensor_bytes=sum(tensor.size for tensor in head.tensors),
        date=_text(provenance.get("date")),
        counts=_counts(provenance),
        figures=_few(figures),
        revised=revision_of(spec),
        warnings=tuple(_warnings(head, figures, without_interval)),
    )


# The file


def _head(path: Path) -> _Head:
    spec = read_spec(path)
    damaged = PluginError(f"'{path.name}' is damaged or incomplete: get the plugin again.")
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        start, end = 8 + length, path.stat().st_size
        items = [(name, item) for name, item in header.items() if name != "__metadata__"]
        items.sort(key=lambda pair: pair[1]["data_offsets"])
        tensors, place = [], start
        for name, item in items:
            first, last = item["data_offsets"]
            if type(first) is not int or type(last) is not int or start + first != place:
                raise damaged
            tensors.append(_tensor(name, item, last - first))
            place = start + last
    except (OSError, ValueError, LookupError, TypeError, RecursionError, struct.error) as error:
        raise damaged from error
    if place != end or spec.members > max(1, len(tensors)):
        raise damaged
    return _Head(spec, header, start, tuple(tensors))


def _tensor(name: str, item: Mapping[str, Any], size: int) -> _Tensor:
    """One tensor of the header; raises ValueError where its shape does not fit the bytes that it has."""
    dtype, shape = item["dtype"], item["shape"]
    fine = isinstance(dtype, str) and isinstance(shape, list) and len(shape) <= MOST_AXES
    if not fine or not all(type(n) is int and 0 <= n < LARGEST_AXIS for n in shape):
        raise ValueError(name)
    values = math.prod(shape)
    # Of a dtype that is not known: a value has at least a bit.
    if (values * DTYPES[dtype] != size) if dtype in DTYPES else (values > 8 * size):
        raise ValueError(name)
    return _Tensor(name, dtype, values, size)


def _header_of(spec: PluginSpec, head: _Head, source: Path) -> bytes:
    """The head of the file with another spec, in the layout of safetensors; what else it says is kept."""
    try:
        text = json.dumps(spec.to_dict(), sort_keys=True)
        metadata = {**head.header["__metadata__"], METADATA_KEY: text}
        if DIGEST_KEY in metadata:
            tensors = {name: item for name, item in head.header.items() if name != "__metadata__"}
            with source.open("rb") as stream:
                stream.seek(head.start)
                metadata[DIGEST_KEY] = content_digest(text, tensors, stream)
        content = packed_header({**head.header, "__metadata__": metadata})
    except (RecursionError, TypeError) as error:
        raise PluginError(f"The description in '{source.name}' is damaged: get the plugin again.") from error
    if len(content) > 8 + LARGEST_HEADER:
        raise PluginError(f"The description in '{source.name}' is too long to be changed: get the plugin again.")
    return content


def _write(target: Path, start: bytes, source: Path, skipped: int) -> None:
    """Write `start` and what follows the first `skipped` bytes of `source`, which may be the same file."""
    # A link stays one, and what was private stays private.
    place = target.resolve()
    with replacing(place) as temporary:
        with source.open("rb") as old, temporary.open("wb") as new:
            old.seek(skipped)
            new.write(start)
            shutil.copyfileobj(old, new)
        if place.exists():
            shutil.copymode(place, temporary)


def _same(first: Path, second: Path) -> bool:
    return first.exists() and first.samefile(second)


# What is changed


def _fit(field: str, value: str) -> str:
    """The text as it is kept; raises InputError where it cannot be."""
    called, is_label = field.replace("_", " "), field in ("name", "version")
    text = value.strip()
    if is_label and not text:
        raise InputError(f"A plugin needs a {called}: give one.")
    most = LONGEST_NAME if is_label else LONGEST_TEXT
    if len(text) > most:
        raise InputError(f"The {called} of a plugin has at most {most} characters, but this has {len(text)}.")
    if any(_is_control(c) and (is_label or c != "\n") for c in text):
        raise InputError(f"The {called} of a plugin cannot hold control characters: leave them out.")
    if field == "name" and re.search(r"[/\\]", text):
        raise InputError(f"The name of a plugin cannot hold a slash, but this is '{text}'.")
    return text


def _with_thresholds(spec: PluginSpec, thresholds: Mapping[str, float]) -> tuple[Any, ...]:
    """The classes with other thresholds; the negative class of a binary plugin gets what the positive leaves."""
    found = {c.name: c.threshold for c in spec.classes}
    for name, value in thresholds.items():
        _check_threshold(spec, name, value)
        if value == found[name]:
            continue
        found[name] = float(value)
        if spec.task_type == "binary":
            found[spec.classes[0].name] = 1 - float(value)
    return tuple(dataclasses.replace(c, threshold=found[c.name]) for c in spec.classes)


def _check_threshold(spec: PluginSpec, name: str, value: Any) -> None:
    if name not in spec.explained:
        names = ", ".join(_text(n, LONGEST_NAME) for n in _few(spec.explained))
        if spec.task_type == "binary" and name == spec.classes[0].name:
            raise InputError(f"A binary plugin decides by its positive class: give the threshold of '{names}'.")
        raise InputError(f"The plugin has no class '{_text(name, LONGEST_NAME)}' to decide for: give one of {names}.")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1:
        shown = repr(value)[:LONGEST_NAME]
        raise InputError(f"The threshold of '{_text(name, LONGEST_NAME)}' must lie between 0 and 1, but is {shown}.")


def _record(spec: PluginSpec, fields: list[str]) -> dict[str, Any]:
    """What the provenance says of this change and of those before it."""
    changed = {*fields, *_fields_revised(spec.provenance)}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "fields": [field for field in FIELDS if field in changed]}


def _fields_revised(provenance: Mapping[str, Any]) -> list[str]:
    fields = mapping_of(provenance.get(REVISED)).get("fields")
    return [field for field in FIELDS if field in fields] if isinstance(fields, list) else []


# What is claimed


def _is_control(character: str) -> bool:
    return character in TURNING or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _text(value: Any, most: int = LONGEST_TEXT) -> str:
    """A foreign text in one line of at most `most` characters, which says so where it is cut; what is none is empty."""
    if not isinstance(value, str):
        return ""
    note = f"... (cut, {len(value):,} characters)" if len(value) > most else ""
    return "".join(" " if _is_control(c) else c for c in value[: most - len(note)]).strip() + note


def _few(texts: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    left = len(texts) - MOST_SHOWN
    return (*texts[:MOST_SHOWN], f"and {left} more") if left > 0 else tuple(texts)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= 1e9 else None


def _counts(provenance: Mapping[str, Any]) -> str:
    counts = mapping_of(mapping_of(provenance.get("counts")).get("train"))
    shown = [f"{n} {_text(name, LONGEST_NAME)}" for name, n in counts.items() if type(n) is int and 0 <= n <= 10**9]
    data = _text(provenance.get("data"))
    return _text(": ".join(filter(None, [data, ", ".join(_few(shown))])))


def _figures(provenance: Mapping[str, Any]) -> tuple[list[str], bool]:
    """The figures in words, those of cases that had no part in the training first; whether one has no interval."""
    found, without_interval = [], False
    for split in ("test", "validation"):
        for name, figure in mapping_of(provenance.get(split)).items():
            value, low, high = (_number(mapping_of(figure).get(key)) for key in ("value", "low", "high"))
            if value is None:
                continue
            known = low is not None and high is not None
            without_interval |= not known
            interval = f" (95 % {low:.3f} to {high:.3f})" if known else ""
            found.append(f"{split} {_text(name, LONGEST_NAME)} {value:.3f}{interval}")
    return found, without_interval


def revision_of(spec: PluginSpec) -> str:
    """When and what was changed after the training, in words; empty where nothing was."""
    provenance = spec.provenance
    if REVISED not in provenance:
        return ""
    date = _text(mapping_of(provenance[REVISED]).get("date"), LONGEST_NAME) or "no date"
    fields = [field.replace("_", " ") for field in _fields_revised(provenance)]
    return f"{date}: {', '.join(fields) or 'it is not told what'}"


def _warnings(head: _Head, figures: list[str], without_interval: bool) -> Iterator[str]:
    spec = head.spec
    if not spec.licence.strip():
        yield "It has no licence: whether it may be used or passed on is not told."
    if not spec.intended_use.strip():
        yield "It does not say what it is intended for."
    if not figures:
        yield "It has no figures: how good it is is not told."
    elif without_interval:
        yield "Some of its figures have no interval: how sure they are is not told."
    if "thresholds" in _fields_revised(spec.provenance):
        yield "Its thresholds were changed after the training."
    known = spec.backbone.id.startswith(ANY_TIMM_MODEL) or spec.backbone.id in list_backbones()
    if not known and all(record.digest != spec.backbone.digest for record in installed().values()):
        yield f"Its backbone '{_text(spec.backbone.id, LONGEST_NAME)}' is not in the list of backbones here."
    if not spec.backbone.digest:
        yield "It does not say which weights of its backbone it was trained on."
    yield from _tensor_warnings(head)


def _tensor_warnings(head: _Head) -> Iterator[str]:
    size = sum(tensor.size for tensor in head.tensors)
    if size > LARGE:
        largest = max(head.tensors, key=lambda tensor: tensor.size)
        yield (
            f"Its tensors have {size / 2**20:,.0f} MiB, more than a plugin needs; the largest is "
            f"'{_text(largest.name, LONGEST_NAME)}'."
        )
    views = {view.name for view in head.spec.views}
    odd = [tensor.name for tensor in head.tensors if not _is_expected(tensor.name, views)]
    if odd:
        yield f"It holds {len(odd)} tensors that no plugin has, such as '{_text(odd[0], LONGEST_NAME)}'."
    types = sorted({tensor.dtype for tensor in head.tensors} - set(DTYPES))
    if types:
        yield f"It holds tensors of an unusual type, such as '{_text(types[0], LONGEST_NAME)}'."


def _is_expected(name: str, views: set[str]) -> bool:
    found = TENSOR_NAME.fullmatch(name)
    return found is not None and all(view is None or view in views for view in found.groups())
