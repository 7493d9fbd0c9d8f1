"""The backbones that are installed on a machine: one safetensors file each, in one folder.

A file holds the tensors in timm's names, and in its header what they are and where they came from. What is listed is
read from the headers, with the standard library alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .architecture import Architecture
from .errors import BackboneError, InputError
from .files import replacing, sweep_left
from .records import Record
from .tensor_header import metadata_of, read_header

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "ANYMC3D_BACKBONES"
METADATA_KEY = "anymc3d_backbone"
FORMAT_VERSION = 1
SUFFIX = ".safetensors"
# Within the folder: what is being fetched, which a later call goes on with.
FETCHING = ".fetching"
# In a record, in place of a file's name: the colours are those that the family's makers are known to have used.
OF_THE_FAMILY = "family"
IDS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Of each text in a record that is shown in a line, and of a licence; copied files come from anywhere.
LONGEST_TEXT, LONGEST_LICENCE = 300, 100_000
# Names that Windows keeps for devices, whatever ending they have.
RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstalledBackbone(Record):
    """What is known of an installed backbone.

    `layout` is the library whose layout the weights came in, `digest` that of timm's tensors, `source_files` and
    `source_digest` the files they were read from; `licence` is the text that came with them, `licence_name` its name.
    `parameters` are millions, `patch` the pixels of a slice to a cell of the network's last map. `colours_from` is the
    file that stated mean and standard deviation, or "family" where none did ('' in older records). `left_out` are the
    parts of the source that the network does without, by how many tensors each had. `notes` are sentences on what was
    assumed, since no file states it.
    """

    id: str
    architecture: Architecture
    digest: str
    title: str = ""
    layout: str = ""
    source_files: tuple[str, ...] = ()
    source_digest: str = ""
    licence: str = ""
    licence_name: str = ""
    imported: str = ""
    format_version: int = FORMAT_VERSION
    kind: Literal["transformer", "hierarchy", "cnn"] = "transformer"
    parameters: float = 0.0
    embed_dim: int = 0
    patch: int = 16
    colours_from: str = ""
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FolderContents:
    """What a folder of backbones holds: those that can be used, by id, and a sentence for each that cannot.

    `there` is whether the folder can be looked into.
    """

    backbones: Mapping[str, InstalledBackbone] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()
    there: bool = True


def backbone_folder() -> Path:
    """Where backbones are installed: what ANYMC3D_BACKBONES names, else the user's folder of application data."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "AnyMC3D" / "backbones"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "AnyMC3D" / "backbones"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "AnyMC3D" / "backbones"


def check_id(name: str) -> None:
    """Raise BackboneError unless `name` can be the id of an installed backbone, and its file's name anywhere."""
    if not IDS.fullmatch(name) or name.partition(".")[0] in RESERVED:
        raise BackboneError(
            f"{name[:80]!r} cannot be the name of a backbone: use small letters, digits, and . _ - between them, at "
            "most 64."
        )


def place_of(name: str, folder: Path | None = None) -> Path:
    """The file of the backbone `name`, whether or not it is there; raises BackboneError for no proper name."""
    check_id(name)
    return (folder or backbone_folder()) / f"{name}{SUFFIX}"


def fetching_folder(name: str, folder: Path | None = None) -> Path:
    """Where the download of the backbone `name` lies until it is installed; raises BackboneError for no proper name."""
    return place_of(name, folder).parent / FETCHING / name


def installed(folder: Path | None = None) -> dict[str, InstalledBackbone]:
    """The installed backbones by id. What cannot be used is left out, and named in a warning."""
    contents = look_into(folder)
    for problem in contents.problems:
        logger.warning("left out of the installed backbones: %s", problem)
    return dict(contents.backbones)


def look_into(folder: Path | None = None) -> FolderContents:
    """What the folder holds; a drive that drops on the way is one problem more, and what was read before stays."""
    place = folder or backbone_folder()
    try:
        files = sorted(file for file in place.iterdir() if file.name.endswith(SUFFIX) and file.name[0] != ".")
    except FileNotFoundError:
        return FolderContents(there=False)
    except OSError as error:
        return FolderContents(problems=(_unreadable(place, error),), there=False)
    found, problems = {}, []
    for file in files:
        try:
            found[file.name.removesuffix(SUFFIX)] = read_record(file)
        except BackboneError as error:
            # The name of a file that was copied here may hold anything.
            problems.append("".join(c if c.isprintable() else "?" for c in str(error)))
    return FolderContents(found, tuple(problems))


def find_installed(name: str, folder: Path | None = None) -> InstalledBackbone | None:
    """The record of the installed backbone `name`, or None if there is none; raises BackboneError if it is damaged."""
    try:
        place = place_of(name, folder)
    except BackboneError:
        return None
    try:
        return read_record(place) if place.is_file() else None
    except OSError as error:
        raise BackboneError(_unreadable(place.parent, error)) from error


def read_record(file: Path) -> InstalledBackbone:
    """What a file of the folder says of itself; raises BackboneError if it is no installed backbone."""
    text = metadata_of(read_header(file)).get(METADATA_KEY)
    if not isinstance(text, str):
        raise BackboneError(f"'{file.name}' is no installed backbone: bring it in with 'anymc3d backbone import'.")
    try:
        data = json.loads(text)
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise BackboneError(
                f"'{file.name}' has backbone format version {repr(version)[:20]}, but this program reads version "
                f"{FORMAT_VERSION}: update AnyMC3D."
            )
        record = InstalledBackbone.from_dict(data, where="backbone")
        _check_texts(record, file)
    except InputError as error:
        raise BackboneError(f"The record in '{file.name}' is wrong: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"The record in '{file.name}' is damaged: import the backbone again.") from error
    if record.id != file.name.removesuffix(SUFFIX):
        raise BackboneError(
            f"'{file.name}' holds the backbone {record.id[:80]!r}: a backbone's file must keep its name."
        )
    return record


def _check_texts(record: InstalledBackbone, file: Path) -> None:
    """Raise BackboneError for a text that could steer the terminal that shows it, or fill it."""
    shown = {name: value for name, value in record.to_dict().items() if name not in record.extra and name != "licence"}
    odd = next((text for text in _texts(shown) if len(text) > LONGEST_TEXT or not text.isprintable()), None)
    if odd is not None:
        raise BackboneError(
            f"The record in '{file.name}' has the text {odd[:40]!r}, which is no line of at most {LONGEST_TEXT} "
            "letters: give what it names another name, and import the backbone again."
        )
    if len(record.licence) > LONGEST_LICENCE:
        raise BackboneError(f"The licence in '{file.name}' is too long to be one: import the backbone again.")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from (name, *_texts(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def check_free(name: str, folder: Path | None = None) -> None:
    """Raise BackboneError if `name` is no proper id, or is taken."""
    place = place_of(name, folder)
    try:
        taken = place.exists()
    except OSError as error:
        raise BackboneError(_unreadable(place.parent, error)) from error
    if taken:
        raise BackboneError(
            f"There is an installed backbone '{name}' already: choose another name, or say --overwrite."
        )


def install(
    model: nn.Module, record: InstalledBackbone, folder: Path | None = None, *, overwrite: bool = False
) -> Path:
    """Write the weights of timm's `model` and their record as one file, whole or not at all; returns its path.

    Raises BackboneError if the id is taken and may not be overwritten, the record could not be shown, the disk is full,
    or the file is in use.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not overwrite:
        check_free(record.id, folder)
    place = place_of(record.id, folder)
    _check_texts(record, place)
    # Copies, since one stored array may serve two names, which a safetensors file cannot tell.
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in sorted(model.state_dict().items())
    }
    sweep_left(place.parent)
    check_space(place.parent, sum(tensor.nbytes for tensor in tensors.values()))
    text = json.dumps(record.to_dict(), sort_keys=True, allow_nan=False)
    try:
        with replacing(place) as temporary:
            mode = temporary.stat().st_mode
            save_file(tensors, temporary, metadata={METADATA_KEY: text})
            # Its writer makes files that their owner alone may read, and a folder may be a department's.
            temporary.chmod(mode)
    except SafetensorError as error:
        raise BackboneError(f"'{place}' cannot be written ({_line(error)}): free some space.") from error
    except (InputError, OSError) as error:
        raise BackboneError(_unwritten(place, error)) from error
    return place


def check_space(folder: Path, size: int) -> None:
    """Raise BackboneError if the disk of `folder`, which need not be there yet, has less than `size` bytes free.

    Also where that cannot be found out, as on a network drive that dropped.
    """
    try:
        there = next((place for place in (folder, *folder.parents) if place.exists()), None)
        free = shutil.disk_usage(there).free if there else size
    except OSError as error:
        raise BackboneError(_unreadable(folder, error)) from error
    if free < size:
        raise BackboneError(
            f"The disk of '{folder}' has {free / 1e6:,.0f} MB free, but {size / 1e6:,.0f} MB are needed: free some "
            "space, or name another folder."
        )


def remove(name: str, folder: Path | None = None) -> None:
    """Delete an installed backbone, also a damaged one, or what there is of one whose fetching was broken off.

    Raises BackboneError if there is neither.
    """
    place, begun = place_of(name, folder), fetching_folder(name, folder)
    try:
        was_begun = begun.is_dir()
        if was_begun:
            shutil.rmtree(begun)
            with contextlib.suppress(OSError):
                begun.parent.rmdir()
        place.unlink(missing_ok=was_begun)
    except FileNotFoundError as error:
        raise BackboneError(f"There is no installed backbone '{name}': 'anymc3d backbones' lists them.") from error
    except OSError as error:
        raise BackboneError(f"'{place}' cannot be deleted ({error.strerror or error}): close what uses it.") from error


def _unreadable(folder: Path, error: OSError) -> str:
    return f"The folder of backbones '{folder}' cannot be read ({error.strerror or error}): check the drive."


def _unwritten(place: Path, error: Exception) -> str:
    """Why the file `place` could not be written, in a sentence."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, PermissionError):
        # Windows replaces no file that a program has open.
        return (
            f"'{place}' cannot be written ({cause.strerror or cause}): close the programs that use this backbone, and "
            "see that you may write there."
        )
    return _unreadable(place.parent, error) if isinstance(error, OSError) else str(error)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
