"""Weights of the catalogue's backbones from the hub, checked and installed.

The hub's own client does the downloading, so its settings hold: HF_TOKEN, HTTPS_PROXY, HF_ENDPOINT, HF_HOME and
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import tqdm

from .backbone_import import import_backbone
from .backbone_store import InstalledBackbone, backbone_folder, check_free, check_space
from .catalogue import BackboneEntry, find_listed
from .errors import AnyMC3DError, BackboneError, Cancelled
from .progress import Progress, ProgressCallback

FILES = ("model.safetensors", "pytorch_model.bin")
BESIDE = ("config.json", "LICENSE", "README.md")
# Above so many bytes a download is asked about.
LARGE = 100_000_000
# Files of the hub's large storage are told by their SHA-256, others by git's own hash.
SHA256 = re.compile(r"[0-9a-f]{64}")
REFUSED = (401, 403, 404)


@dataclasses.dataclass(frozen=True)
class _Remote:
    """A file of weights as the hub describes it; `size` is 0 where all of it is on this machine."""

    repository: str
    file: str
    size: int
    digest: str


def fetch_backbone(
    id: str,  # noqa: A002 - as everywhere
    *,
    accept: Callable[[str], bool],
    progress: ProgressCallback | None = None,
    folder: Path | None = None,
    token: str | None = None,
    overwrite: bool = False,
) -> InstalledBackbone:
    """Install the catalogue's backbone `id` with the weights that the hub has, and return its record.

    `accept` is asked before a large download, and where the licence is gated or forbids commercial use. `progress`
    tells bytes. What is in the hub's cache is taken from there, also without a network. Raises BackboneError if the
    hub does not give the weights or they are not those it describes, and Cancelled if `accept` says no.
    """
    entry = find_listed(id)
    if not overwrite:
        check_free(id, folder)
    if not any(source.kind == "hub" for source in entry.weights):
        raise BackboneError(
            f"The weights of '{id}' are not on the hub for this: get them from {entry.hub}, then use 'anymc3d backbone "
            f"import FILE --as {id}'."
        )
    with _told(entry):
        remote = _look(entry, token)
        _ask(entry, remote, accept)
        check_space(Path(constants.HF_HUB_CACHE), remote.size)
        check_space(folder or backbone_folder(), remote.size)
        file = _downloaded(remote, token, progress or (lambda _: None), step=f"Downloading {id} (bytes)")
        _check_digest(file, remote, entry)
        for name in BESIDE:
            _get_beside(remote, name, token)
    return import_backbone(file, id=id, folder=folder, model=entry.timm, licence=entry.licence,
                           overwrite=overwrite)  # fmt: skip


def _look(entry: BackboneEntry, token: str | None) -> _Remote:
    """What the hub has for `entry`; without a network, what its cache has."""
    repository = timm.get_pretrained_cfg(entry.timm).hf_hub_id
    problem: Exception | None = None
    for file in FILES:
        try:
            found = get_hf_file_metadata(hf_hub_url(repository, file), token=token)
        except EntryNotFoundError as error:
            problem = error
            continue
        except Exception as error:
            cached = _cached(repository)
            if cached is None or _status(error) in REFUSED:
                raise
            return cached
        here = try_to_load_from_cache(repository, file, revision=found.commit_hash)
        return _Remote(repository, file, 0 if isinstance(here, str) else found.size or 0, _sha256(found.etag))
    raise problem or LookupError(repository)


def _cached(repository: str) -> _Remote | None:
    for file in FILES:
        place = try_to_load_from_cache(repository, file)
        if isinstance(place, str):
            # The cache names a file by what the hub said of it, where the system has links.
            return _Remote(repository, file, 0, _sha256(Path(place).resolve().name))
    return None


def _sha256(text: str | None) -> str:
    return text if text and SHA256.fullmatch(text) else ""


def _ask(entry: BackboneEntry, remote: _Remote, accept: Callable[[str], bool]) -> None:
    asked = []
    if remote.size > LARGE:
        asked.append(f"{remote.size / 1e6:,.0f} MB are downloaded.")
    if entry.non_commercial:
        asked.append(f"Its licence forbids commercial use: {entry.licence}.")
    if entry.gated:
        asked.append(f"Its licence must be agreed to: {entry.licence}, see {entry.hub}.")
    if asked and not accept(f"'{entry.id}' ({entry.title}) from {entry.hub}. {' '.join(asked)} Go on?"):
        raise Cancelled(f"'{entry.id}' was not fetched, as you chose.")


def _downloaded(remote: _Remote, token: str | None, progress: ProgressCallback, *, step: str) -> Path:
    options: dict[str, Any] = {}
    # Older versions of the hub's client draw a bar of their own alone.
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        options["tqdm_class"] = _bar(remote.size, progress, step)
    if remote.size:
        progress(Progress(step, 0, remote.size))
    place = hf_hub_download(remote.repository, remote.file, token=token, local_files_only=not remote.size, **options)
    if remote.size:
        progress(Progress(step, remote.size, remote.size))
    return Path(place)


def _bar(total: int, progress: ProgressCallback, step: str) -> type[tqdm]:
    class Bar(tqdm):
        """Draws nothing, and tells `progress` what the hub's client tells its bar."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self._done = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            progress(Progress(step, min(self._done, total), total))

    return Bar


def _check_digest(file: Path, remote: _Remote, entry: BackboneEntry) -> None:
    if not remote.digest:
        return
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found == remote.digest:
        return
    # Else the next try would take the same bytes from the cache.
    for place in {file.resolve(), file}:
        place.unlink(missing_ok=True)
    raise BackboneError(
        f"What was downloaded for '{entry.id}' is not what the hub describes ({found[:12]}... instead of "
        f"{remote.digest[:12]}...): it was deleted, fetch it again."
    )


def _get_beside(remote: _Remote, name: str, token: str | None) -> None:
    try:
        hf_hub_download(remote.repository, name, token=token)
    except (EntryNotFoundError, OfflineModeIsEnabled):
        # Not there, or not in the cache: the weights do without.
        return


@contextlib.contextmanager
def _told(entry: BackboneEntry) -> Iterator[None]:
    """Any failure of the hub's client in one sentence."""
    try:
        yield
    except AnyMC3DError:
        raise
    except Exception as error:  # the client raises its HTTP library's errors, and those differ by version
        raise BackboneError(_sentence(entry, error)) from error


def _status(error: Exception) -> int | None:
    """With which HTTP status the hub answered; None where it did not."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _sentence(entry: BackboneEntry, error: Exception) -> str:
    status = _status(error)
    if status in (401, 403):
        return (
            f"The hub gives the weights of '{entry.id}' to those alone who asked for access: open {entry.hub}, accept "
            "the licence there, and put a token of yours into HF_TOKEN."
        )
    if status == 404 or (isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)):
        return f"The hub has no weights for '{entry.id}' (looked in {entry.hub}): update timm, or import a file."
    if status is not None:
        return f"The hub answered with error {status} for '{entry.id}': try again later."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: free some space for '{entry.id}', or name another folder in HF_HOME."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS):
        return f"The hub's cache '{constants.HF_HUB_CACHE}' cannot be written: name another folder in HF_HOME."
    if isinstance(error, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return (
            f"The weights of '{entry.id}' are not in the hub's cache, and HF_HUB_OFFLINE forbids to download them: "
            "unset it, or import a file."
        )
    return (
        f"The hub cannot be reached for '{entry.id}', or the connection broke: check the network and HTTPS_PROXY, or "
        f"get the file from {entry.hub} elsewhere and import it."
    )
