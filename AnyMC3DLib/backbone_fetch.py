"""Weights of the catalogue's backbones from the hub, checked and installed.

The hub's own client speaks with it, so its settings hold: HF_TOKEN, HTTPS_PROXY, HF_ENDPOINT, HF_HOME and
HF_HUB_OFFLINE. What is in its cache is taken from there, and nothing large is put into it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from .backbone_download import alone_in, begun, download, sha256_of
from .backbone_import import import_backbone
from .backbone_store import InstalledBackbone, backbone_folder, check_free, check_space, fetching_folder
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
# Of the HTTP libraries that versions of the hub's client use.
HTTP_ERRORS = ("httpx", "httpcore", "requests", "urllib3", "http.", "ssl")


@dataclasses.dataclass(frozen=True)
class _Remote:
    """A file of weights as the hub describes it.

    `size` in bytes, None where the hub does not tell it; `tag` is what the hub changes with the file, `digest` its
    SHA-256, '' where they are not told. `cached` is the file in the hub's cache, if it is there.
    """

    repository: str
    file: str
    size: int | None = None
    tag: str = ""
    cached: Path | None = None

    @property
    def digest(self) -> str:
        return self.tag if SHA256.fullmatch(self.tag) else ""

    @property
    def key(self) -> str:
        """A folder's name for what is downloaded of this very file."""
        return hashlib.sha256(self.tag.encode()).hexdigest()[:16]


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

    `accept` is asked before a download that is large or of a size that the hub does not tell, where a file of the cache
    cannot be checked, and where the licence is gated or forbids commercial use. `progress` tells bytes. What is in the
    hub's cache is taken from there, also without a network; a download that was broken off is gone on with. Raises
    BackboneError if the hub does not give the weights or they are not those it describes, and Cancelled if `accept`
    says no.
    """
    entry, store = find_listed(id), folder or backbone_folder()
    if not overwrite:
        check_free(id, folder)
    if not any(source.kind == "hub" for source in entry.weights):
        raise BackboneError(
            f"The weights of '{id}' cannot be fetched by this program: download the folder from {entry.hub}, then use "
            f"'anymc3d backbone import FOLDER --as {id}'."
        )
    with contextlib.ExitStack() as held:
        with _told(entry, store):
            remote = _look(entry, token)
            if remote.cached:
                _ask(entry, 0, accept, checked=bool(remote.digest))
                file, beside = remote.cached, None
            else:
                work = fetching_folder(id, store)
                _prepare(entry, remote, work, accept)
                beside = held.enter_context(alone_in(work, keep=remote.key))
                file = beside / remote.file
                _get(remote, file, token, progress or (lambda _: None), step=f"Downloading {id} (bytes)")
            _check_digest(file, remote, entry)
            _get_beside(remote, token, beside)
        return import_backbone(file, id=id, folder=folder, model=entry.timm, licence=entry.licence, overwrite=overwrite)


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
        return _Remote(repository, file, found.size, found.etag or "", Path(here) if isinstance(here, str) else None)
    raise problem or LookupError(repository)


def _cached(repository: str) -> _Remote | None:
    for file in FILES:
        place = try_to_load_from_cache(repository, file)
        if isinstance(place, str):
            # The cache names a file by what the hub said of it, unless it was copied or made without links.
            return _Remote(repository, file, tag=Path(place).resolve().name, cached=Path(place))
    return None


def _prepare(entry: BackboneEntry, remote: _Remote, work: Path, accept: Callable[[str], bool]) -> None:
    """Ask, and raise BackboneError where the disk has no room for what is to come."""
    missing = None if remote.size is None else remote.size - _there(remote, work / remote.key)
    _ask(entry, missing, accept)
    if remote.size is not None and missing is not None:
        # On one disk: the rest of the download, and what is installed of it.
        check_space(work.parent.parent, missing + remote.size)


def _there(remote: _Remote, folder: Path) -> int:
    # Without a tag what is there may be another file's.
    return begun(folder / remote.file, remote.size) if remote.tag else 0


def _ask(entry: BackboneEntry, missing: int | None, accept: Callable[[str], bool], *, checked: bool = True) -> None:
    """Raise Cancelled unless a download of `missing` bytes (None: nobody knows) and the licence are agreed to.

    Also where the file is in the cache and not `checked`, since nothing here knows its digest.
    """
    asked = []
    if not checked:
        asked.append("The copy in the hub's cache cannot be checked: it does not say the digest of the file.")
    if missing is None:
        asked.append("The hub does not say how many MB are downloaded.")
    elif missing > LARGE:
        asked.append(f"{missing / 1e6:,.0f} MB are downloaded.")
    if entry.non_commercial:
        asked.append(f"Its licence forbids commercial use: {entry.licence}.")
    if entry.gated:
        asked.append(f"Its licence must be agreed to: {entry.licence}, see {entry.hub}.")
    if asked and not accept(f"'{entry.id}' ({entry.title}) from {entry.hub}. {' '.join(asked)} Go on?"):
        raise Cancelled(f"'{entry.id}' was not fetched, as you chose.")


def _get(remote: _Remote, place: Path, token: str | None, progress: ProgressCallback, *, step: str) -> None:
    def count(done: int) -> None:
        progress(Progress(step, done, done if remote.size is None else remote.size))

    there = _there(remote, place.parent)
    if not there:
        for other in place.parent.glob(f"{place.name}*"):
            other.unlink()
    count(there)
    download(remote.repository, remote.file, place, size=remote.size, token=token, count=count)


def _check_digest(file: Path, remote: _Remote, entry: BackboneEntry) -> None:
    found = sha256_of(file) if remote.digest else ""
    if found == remote.digest:
        return
    # Else the next try would take the same bytes again.
    for place in {file.resolve(), file}:
        place.unlink(missing_ok=True)
    raise BackboneError(
        f"What was downloaded for '{entry.id}' is not what the hub describes ({found[:12]}... instead of "
        f"{remote.digest[:12]}...): it was deleted, fetch it again."
    )


def _get_beside(remote: _Remote, token: str | None, folder: Path | None) -> None:
    """Bring the config and the words on the licence into `folder`, or into the hub's cache."""
    for name in BESIDE:
        # Not there, or not in a cache that cannot be reached or written: the weights do without.
        with contextlib.suppress(EntryNotFoundError, OfflineModeIsEnabled, PermissionError):
            hf_hub_download(remote.repository, name, token=token, local_dir=folder)


@contextlib.contextmanager
def _told(entry: BackboneEntry, store: Path) -> Iterator[None]:
    """Any failure of the hub's client, or of the folder `store`, in one sentence."""
    try:
        yield
    except AnyMC3DError:
        raise
    except Exception as error:  # the client raises its HTTP library's errors, and those differ by version
        raise BackboneError(_sentence(entry, error, store)) from error


def _status(error: Exception) -> int | None:
    """With which HTTP status the hub answered; None where it did not."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _sentence(entry: BackboneEntry, error: Exception, store: Path) -> str:
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
        return f"The disk of '{store}' is full: free some space and fetch '{entry.id}' again, which goes on from there."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR):
        return (
            f"The folder of backbones '{store}' cannot be read or written ({error.strerror}): check the drive, or name "
            "another folder in ANYMC3D_BACKBONES."
        )
    if isinstance(error, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return (
            f"The weights of '{entry.id}' are not in the hub's cache, and HF_HUB_OFFLINE forbids to download them: "
            "unset it, or import a file."
        )
    if _is_connection(error):
        return (
            f"The hub cannot be reached for '{entry.id}', or the connection broke: check the network and HTTPS_PROXY "
            f"and fetch it again, which goes on from there, or get the file from {entry.hub} elsewhere and import it."
        )
    what = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"'{entry.id}' could not be fetched ({type(error).__name__}: {what}): fetch it again, or get the file from "
        f"{entry.hub} elsewhere and import it."
    )


def _is_connection(error: Exception) -> bool:
    """Whether the network, or the hub's client on its way through it, has failed."""
    if isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError)):
        return True
    # Its client says with a bare OSError that less came than was promised.
    bare = type(error) is OSError and error.errno is None
    return bare or any(kind.__module__.startswith(HTTP_ERRORS) for kind in type(error).__mro__)
