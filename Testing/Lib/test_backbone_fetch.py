"""Weights from the hub, which a server on this machine plays: asked about, whole, checked, told in one sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import timm
from hub import Hub, serving
from safetensors.torch import save
from shell import anymc3d
from stored import small_vit

from AnyMC3DLib import backbone_download, backbone_fetch, backbone_import, backbone_store, catalogue
from AnyMC3DLib.backbone_fetch import fetch_backbone
from AnyMC3DLib.backbone_store import installed
from AnyMC3DLib.catalogue import BackboneEntry, WeightSource, read_catalogue
from AnyMC3DLib.errors import BackboneError, Cancelled
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.weights import digest_of

ENTRY = BackboneEntry(
    id="tiny", timm="test_vit.r160_in1k", title="Tiny ViT", licence="Apache-2.0", hub="https://hub.example/tiny"
)
REPOSITORY = timm.get_pretrained_cfg(ENTRY.timm).hf_hub_id
MODEL = small_vit(seed=3)
WEIGHTS = save({name: tensor.contiguous() for name, tensor in MODEL.state_dict().items()})


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of backbones and a cache of the hub's files for the test alone."""
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Where the hub is before a test says so: nowhere.
    point_to("http://127.0.0.1:9", monkeypatch)
    list_entry(ENTRY, monkeypatch)
    return tmp_path / "store"


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def list_entry(entry: BackboneEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (catalogue, backbone_import):
        monkeypatch.setattr(module, "read_catalogue", lambda: {entry.id: entry})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {
        "model.safetensors": WEIGHTS,
        "config.json": json.dumps({"architecture": "test_vit"}).encode(),
        "README.md": b"---\nlicense: mit\n---\n",
        "LICENSE": b"The licence's words.\n",
    }
    with serving(Hub(REPOSITORY, files)) as hub:
        point_to(hub.address, monkeypatch)
        yield hub


def never(question: str) -> bool:
    pytest.fail(f"nothing was to be asked, but: {question}")


def agreed(_: str) -> bool:
    return True


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)


def test_a_backbone_is_downloaded_checked_and_installed(hub: Hub) -> None:
    record = fetch_backbone("tiny", accept=never)
    assert record.digest == digest_of(MODEL)
    assert (record.id, record.title, record.licence_name) == ("tiny", "Tiny ViT", "Apache-2.0")
    assert record.licence == "The licence's words.\n"
    assert record.source_files == ("model.safetensors",)
    assert installed() == {"tiny": record}
    assert len(hub.requests("GET", "model.safetensors")) == 1


def test_progress_is_told_in_bytes_up_to_the_whole(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    told: list[Progress] = []
    fetch_backbone("tiny", accept=never, progress=told.append)
    done = [progress.done for progress in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(WEIGHTS))
    assert len(set(done)) > 3
    assert {progress.total for progress in told} == {len(WEIGHTS)}
    assert {progress.step for progress in told} == {"Downloading tiny (bytes)"}


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.breaks = 1
    told: list[Progress] = []
    assert fetch_backbone("tiny", accept=never, progress=told.append).digest == digest_of(MODEL)
    first, second = (span for span, _ in hub.requests("GET", "model.safetensors"))
    assert first == ""
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= len(WEIGHTS) // 2
    assert max(progress.done for progress in told) == len(WEIGHTS)


def put_into_the_cache(hub: Hub) -> Path:
    """Have the hub's own client download everything, as other programs of its users do; returns the weights' place."""
    hub.asked.clear()
    places = {name: huggingface_hub.hf_hub_download(REPOSITORY, name) for name in hub.files}
    hub.asked.clear()
    return Path(places["model.safetensors"])


def files_below(place: Path) -> list[str]:
    return sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())


def large_files_below(place: Path) -> list[Path]:
    return [file for file in place.rglob("*") if file.is_file() and file.stat().st_size > 10_000]


def test_what_was_downloaded_lies_on_the_disk_once(hub: Hub, store: Path, tmp_path: Path) -> None:
    fetch_backbone("tiny", accept=never)
    assert files_below(store) == ["tiny.safetensors"]
    assert large_files_below(tmp_path) == [store / "tiny.safetensors"]


class Killed(BaseException):
    """As when a person presses Ctrl-C."""


def broken_off(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch until about half is there."""
    small_chunks(monkeypatch)

    def stop(progress: Progress) -> None:
        if progress.done > len(WEIGHTS) // 2:
            raise Killed

    with pytest.raises(Killed):
        fetch_backbone("tiny", accept=never, progress=stop)
    hub.asked.clear()


def test_a_download_that_was_broken_off_is_gone_on_with_at_the_next_call(
    hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(hub, monkeypatch)
    assert installed() == {}
    told: list[Progress] = []
    assert fetch_backbone("tiny", accept=never, progress=told.append).digest == digest_of(MODEL)
    ((span, _),) = hub.requests("GET", "model.safetensors")
    first = int(span.removeprefix("bytes=").rstrip("-"))
    assert first > len(WEIGHTS) // 2
    assert (told[0].done, told[-1].done) == (first, len(WEIGHTS))
    assert files_below(store) == ["tiny.safetensors"]


KILLED = """
import os, signal, sys
import huggingface_hub
from AnyMC3DLib import backbone_import, catalogue
from AnyMC3DLib.backbone_fetch import fetch_backbone
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1 << 14
entry = catalogue.BackboneEntry(id="tiny", timm="test_vit.r160_in1k")
for module in (catalogue, backbone_import):
    module.read_catalogue = lambda: {"tiny": entry}
def die(progress):
    if progress.done > progress.total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
fetch_backbone("tiny", accept=lambda question: False, progress=die)
"""


@pytest.mark.skipif(os.name != "posix", reason="the signal is POSIX's")
def test_a_process_that_was_killed_left_what_the_next_goes_on_with(hub: Hub, tmp_path: Path) -> None:
    variables = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    ended = subprocess.run([sys.executable, "-c", KILLED], check=False, env={**os.environ, **variables})
    assert ended.returncode == -9
    hub.asked.clear()
    assert fetch_backbone("tiny", accept=never).digest == digest_of(MODEL)
    ((span, _),) = hub.requests("GET", "model.safetensors")
    assert int(span.removeprefix("bytes=").rstrip("-")) > len(WEIGHTS) // 3


def test_a_file_that_the_hub_has_changed_meanwhile_is_downloaded_from_its_start(
    hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(hub, monkeypatch)
    other = small_vit(seed=4)
    hub.files["model.safetensors"] = save({name: tensor.contiguous() for name, tensor in other.state_dict().items()})
    assert fetch_backbone("tiny", accept=never).digest == digest_of(other)
    assert [span for span, _ in hub.requests("GET", "model.safetensors")] == [""]
    assert files_below(store) == ["tiny.safetensors"]


def test_a_server_that_knows_no_parts_of_files_is_taken_from_the_start(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(hub, monkeypatch)
    hub.ranges = False
    assert fetch_backbone("tiny", accept=never).digest == digest_of(MODEL)


def test_what_is_downloaded_is_not_downloaded_again_where_its_import_failed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise BackboneError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(backbone_import, "install", full)
        with pytest.raises(BackboneError, match=r"^The disk is full\.$"):
            fetch_backbone("tiny", accept=never)
    fetch_backbone("tiny", accept=never)
    assert len(hub.requests("GET", "model.safetensors")) == 1


def test_an_unfinished_download_can_be_removed(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_off(hub, monkeypatch)
    backbone_store.remove("tiny")
    assert large_files_below(store) == []
    with pytest.raises(BackboneError, match="There is no installed backbone 'tiny'"):
        backbone_store.remove("tiny")


def test_a_backbone_that_another_process_fetches_is_left_to_it(hub: Hub, store: Path) -> None:
    with (
        backbone_download.alone_in(backbone_store.fetching_folder("tiny"), keep="any"),
        pytest.raises(BackboneError, match="'tiny' is being fetched already: wait for that"),
    ):
        fetch_backbone("tiny", accept=never)
    assert fetch_backbone("tiny", accept=never).id == "tiny"


def test_a_file_of_another_digest_is_refused_and_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.digests["model.safetensors"] = "0" * 64
    with pytest.raises(BackboneError, match=r"not what the hub describes \(.*instead of 000000000000\.\.\.\)"):
        fetch_backbone("tiny", accept=never)
    assert installed() == {}
    assert large_files_below(tmp_path) == []
    hub.digests.clear()
    assert fetch_backbone("tiny", accept=never).digest == digest_of(MODEL)


@pytest.mark.parametrize(("status", "error"), [(401, "GatedRepo"), (403, "GatedRepo"), (401, ""), (403, "")])
def test_a_gated_backbone_is_refused_with_how_to_ask_for_it(hub: Hub, store: Path, status: int, error: str) -> None:
    hub.status, hub.error = status, error
    with pytest.raises(BackboneError) as refused:
        fetch_backbone("tiny", accept=agreed)
    assert str(refused.value) == (
        "The hub gives the weights of 'tiny' to those alone who asked for access: open https://hub.example/tiny, "
        "accept the licence there, and put a token of yours into HF_TOKEN."
    )
    assert not store.exists()


@pytest.mark.parametrize("given", [True, False])
def test_the_token_goes_to_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    if not given:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_backbone("tiny", accept=never, token="hf_secret" if given else None)
    assert {token for *_, token in hub.asked} == {"Bearer hf_secret"}


def test_weights_that_the_hub_has_not_are_said_to_be_missing(hub: Hub) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(BackboneError, match="The hub has no weights for 'tiny'"):
        fetch_backbone("tiny", accept=never)


def test_the_older_file_is_taken_where_the_newer_is_not_there(hub: Hub, tmp_path: Path) -> None:
    import torch

    torch.save(MODEL.state_dict(), tmp_path / "old.bin")
    del hub.files["model.safetensors"]
    hub.files["pytorch_model.bin"] = (tmp_path / "old.bin").read_bytes()
    record = fetch_backbone("tiny", accept=never)
    assert (record.source_files, record.digest) == (("pytorch_model.bin",), digest_of(MODEL))


def test_a_hub_in_trouble_is_said_with_its_number(hub: Hub) -> None:
    hub.status = 418
    with pytest.raises(BackboneError, match="The hub answered with error 418 for 'tiny': try again later"):
        fetch_backbone("tiny", accept=never)


def test_no_network_is_said_with_what_to_do(store: Path) -> None:
    with pytest.raises(BackboneError) as refused:
        fetch_backbone("tiny", accept=never)
    assert str(refused.value).startswith("The hub cannot be reached for 'tiny'")
    assert "HTTPS_PROXY" in str(refused.value)
    assert not store.exists()


@pytest.mark.parametrize("offline", [True, False])
def test_what_is_in_the_cache_needs_no_network(hub: Hub, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = put_into_the_cache(hub)
    point_to("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    told: list[Progress] = []
    record = fetch_backbone("tiny", accept=never, progress=told.append)
    assert (record.digest, record.licence) == (digest_of(MODEL), "The licence's words.\n")
    assert told == hub.asked == []
    assert weights.is_file()


def test_a_file_in_the_cache_is_not_downloaded_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_fetch, "LARGE", len(WEIGHTS) - 1)
    put_into_the_cache(hub)
    assert fetch_backbone("tiny", accept=never).digest == digest_of(MODEL)
    assert not hub.requests("GET", "model.safetensors")


def test_a_damaged_file_in_the_cache_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = put_into_the_cache(hub).resolve()
    blob.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match="not what the hub describes"):
        fetch_backbone("tiny", accept=never)


@pytest.mark.parametrize("agrees", [True, False])
def test_a_cache_that_was_copied_without_its_links_is_asked_about_since_nothing_can_check_it(
    agrees: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = put_into_the_cache(hub)
    content = place.read_bytes()
    place.unlink()
    place.write_bytes(content)
    point_to("http://127.0.0.1:9", monkeypatch)
    questions: list[str] = []

    def accept(question: str) -> bool:
        questions.append(question)
        return agrees

    if agrees:
        assert fetch_backbone("tiny", accept=accept).digest == digest_of(MODEL)
    else:
        with pytest.raises(Cancelled, match="'tiny' was not fetched, as you chose"):
            fetch_backbone("tiny", accept=accept)
    (question,) = questions
    assert "cannot be checked" in question


def test_an_empty_cache_without_a_network_that_is_wanted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE forbids to download them"):
        fetch_backbone("tiny", accept=never)


QUESTIONS: dict[str, tuple[dict[str, object], bool, str]] = {
    "a large download": ({}, True, "MB are downloaded."),
    "a licence that forbids trade": (
        {"non_commercial": True, "licence": "CC-BY-NC-4.0"}, False, "forbids commercial use: CC-BY-NC-4.0.",
    ),
    "a licence to agree to": ({"gated": True, "licence": "DINOv3"}, False, "must be agreed to: DINOv3, see https://hub"),
}  # fmt: skip


@pytest.mark.parametrize("what", QUESTIONS)
def test_nothing_is_downloaded_before_one_has_agreed_to(
    what: str, hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, large, words = QUESTIONS[what]
    list_entry(dataclasses.replace(ENTRY, **changed), monkeypatch)
    if large:
        hub.sizes["model.safetensors"] = 1_200_000_000
        words = f"1,200 {words}"
    questions: list[str] = []
    with pytest.raises(Cancelled, match="'tiny' was not fetched, as you chose"):
        fetch_backbone("tiny", accept=lambda question: bool(questions.append(question)))
    (question,) = questions
    assert words in question
    assert question.startswith("'tiny' (Tiny ViT) from https://hub.example/tiny.")
    assert {method for method, *_ in hub.asked} == {"HEAD"}
    assert not store.exists()


def test_a_size_that_the_hub_does_not_tell_is_asked_about(hub: Hub, store: Path) -> None:
    hub.sizes["model.safetensors"] = None
    questions: list[str] = []
    with pytest.raises(Cancelled):
        fetch_backbone("tiny", accept=lambda question: bool(questions.append(question)))
    assert "The hub does not say how many MB are downloaded." in questions[0]
    assert {method for method, *_ in hub.asked} == {"HEAD"}
    assert not store.exists()
    assert fetch_backbone("tiny", accept=agreed).digest == digest_of(MODEL)


def test_only_what_is_missing_is_asked_about(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_off(hub, monkeypatch)
    monkeypatch.setattr(backbone_fetch, "LARGE", len(WEIGHTS) // 2)
    assert fetch_backbone("tiny", accept=never).digest == digest_of(MODEL)


@pytest.mark.parametrize("times", [1, 2])
def test_the_disk_must_take_the_download_and_what_is_installed_of_it(
    times: int, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = times * len(WEIGHTS)
    monkeypatch.setattr(backbone_store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free})())
    if times == 2:
        fetch_backbone("tiny", accept=never)
        return
    with pytest.raises(BackboneError, match="MB are needed: free some space"):
        fetch_backbone("tiny", accept=never)
    assert not hub.requests("GET", "model.safetensors")


def test_a_disk_that_is_too_small_is_said_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.sizes["model.safetensors"] = 1 << 60
    with pytest.raises(BackboneError, match="MB are needed: free some space"):
        fetch_backbone("tiny", accept=agreed)
    assert not hub.requests("GET", "model.safetensors")


def failing(error: Exception) -> Callable[..., str]:
    def download(*_: object, **__: object) -> str:
        raise error

    return download


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "store' is full"),
        (PermissionError(13, "Permission denied"), "store' cannot be read or written"),
        (OSError("consistency check failed"), "the connection broke"),
        (ConnectionResetError(104, "Connection reset by peer"), "the connection broke"),
        (type("ReadTimeout", (Exception,), {"__module__": "httpx2._exceptions"})("slow"), "the connection broke"),
        (RuntimeError("anything"), "'tiny' could not be fetched (RuntimeError: anything): fetch it again"),
        (OSError(36, "File name too long"), "'tiny' could not be fetched (OSError: [Errno 36] File name too long)"),
    ],
)
def test_a_download_that_fails_is_said_in_one_sentence(
    error: Exception, words: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_fetch, "download", failing(error))
    with pytest.raises(BackboneError) as refused:
        fetch_backbone("tiny", accept=never)
    assert words in str(refused.value)
    assert str(refused.value).endswith(".")


def test_a_download_that_is_stopped_installs_nothing(hub: Hub) -> None:
    def stop(progress: Progress) -> None:
        if progress.done:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled, match=r"^Stopped\.$"):
        fetch_backbone("tiny", accept=never, progress=stop)
    assert installed() == {}


def test_a_backbone_that_is_installed_is_not_fetched_again(hub: Hub) -> None:
    fetch_backbone("tiny", accept=never)
    asked = len(hub.asked)
    with pytest.raises(BackboneError, match="installed backbone 'tiny' already"):
        fetch_backbone("tiny", accept=never)
    assert len(hub.asked) == asked


def test_an_unknown_name_is_refused_without_asking_the_hub(hub: Hub) -> None:
    with pytest.raises(BackboneError, match=r"no backbone 'tinny' \(did you mean tiny"):
        fetch_backbone("tinny", accept=never)
    assert not hub.asked


def test_a_backbone_that_is_a_file_alone_is_refused_with_its_page(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    list_entry(dataclasses.replace(ENTRY, weights=(WeightSource(kind="file"),)), monkeypatch)
    with pytest.raises(
        BackboneError,
        match=r"'tiny' cannot be fetched by this program: download the folder from https://hub.example/tiny, then use "
        r"'anymc3d backbone import FOLDER --as tiny'",
    ):
        fetch_backbone("tiny", accept=never)
    assert not hub.asked


def test_every_entry_with_the_hub_has_a_repository_there() -> None:
    for entry in read_catalogue().values():
        if any(source.kind == "hub" for source in entry.weights):
            assert timm.get_pretrained_cfg(entry.timm).hf_hub_id, entry.id


# The command


def test_the_command_fetches_and_says_what_it_installed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d("backbone", "fetch", "tiny") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Installed 'tiny':")
    assert "Downloading tiny (bytes): 0 of" in shown.err


def test_the_command_asks_a_person_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    list_entry(dataclasses.replace(ENTRY, non_commercial=True), monkeypatch)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: PTH123, SIM115 - it is closed with the test
    assert anymc3d("backbone", "fetch", "tiny") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("anymc3d: 'tiny' (Tiny ViT)")
    assert shown.endswith("Say --yes to go on.\n")
    assert anymc3d("backbone", "fetch", "tiny", "--yes") == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("no\n", 1), ("\n", 1)])
def test_the_command_goes_on_where_a_person_says_yes(
    answer: str, code: int, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    list_entry(dataclasses.replace(ENTRY, gated=True), monkeypatch)
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert anymc3d("backbone", "fetch", "tiny") == code
    assert "Go on? [y/N]" in capsys.readouterr().err


def test_the_hubs_own_variables_hold_for_the_installed_command(hub: Hub, tmp_path: Path) -> None:
    variables = {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_mine", "NO_PROXY": "127.0.0.1",
        "ANYMC3D_BACKBONES": str(tmp_path / "other"),
    }  # fmt: skip
    hub.status, hub.error = 403, "GatedRepo"
    command = [sys.executable, "-m", "AnyMC3DLib.cli", "backbone", "fetch", "dinov2_vits14", "--yes"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})
    assert result.returncode == 1
    assert result.stderr.startswith("anymc3d: The hub gives the weights of 'dinov2_vits14' to those alone")
    assert result.stderr.count("\n") == 1
    assert {token for _, token in hub.requests("HEAD", "model.safetensors")} == {"Bearer hf_mine"}
