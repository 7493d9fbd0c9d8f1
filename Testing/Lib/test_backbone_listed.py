"""A name of the catalogue's stands for its network, and for its title and licence where a file says that it is that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from stored import dinov2_folder

from AnyMC3DLib import backbone_import, catalogue
from AnyMC3DLib.backbone_import import import_backbone
from AnyMC3DLib.backbone_store import find_installed
from AnyMC3DLib.catalogue import BackboneEntry, WeightSource, find_backbone, list_backbones
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.reading import read_weights

Listing = Callable[..., BackboneEntry]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return dinov2_folder(tmp_path / "source")


@pytest.fixture
def listing(source: Path, monkeypatch: pytest.MonkeyPatch) -> Listing:
    """Puts a network like that of `source` into the catalogue as 'dinov2_tiny', with other arguments where given."""
    made = read_weights(source).architecture

    def put(weights: str = "hub", **arguments: object) -> BackboneEntry:
        listed = BackboneEntry(
            id="dinov2_tiny", timm=made.timm, model_args={**made.model_args, **arguments}, title="DINOv2 tiny",
            licence="Apache-2.0", hub="https://huggingface.co/makers/dinov2-tiny", recommended=True,
            weights=(WeightSource(kind=weights),),
        )  # fmt: skip
        for module in (catalogue, backbone_import):
            monkeypatch.setattr(module, "read_catalogue", lambda: {"dinov2_tiny": listed})
        return listed

    return put


def add_to_config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_weights_whose_config_says_so_have_the_catalogues_title_and_licence(source: Path, listing: Listing) -> None:
    listing()
    add_to_config(source, _name_or_path="makers/dinov2-tiny")
    record = import_backbone(source, id="dinov2_tiny")
    assert (record.title, record.licence_name, dict(record.extra)) == ("DINOv2 tiny", "Apache-2.0", {})
    entry = find_backbone("dinov2_tiny")
    assert (entry.hub, entry.recommended, entry.weights[0].kind) == (listing().hub, True, "installed")
    assert list(list_backbones()) == ["dinov2_tiny"]


@pytest.mark.parametrize("name", ["someone/dinov2-tiny", None])
def test_weights_of_the_same_shapes_get_neither_title_nor_licence(
    name: str | None, source: Path, listing: Listing
) -> None:
    listing()
    if name:
        add_to_config(source, _name_or_path=name)
    record = import_backbone(source, id="dinov2_tiny")
    assert record.title.startswith("DINOv2, ")
    assert record.licence_name == find_backbone("dinov2_tiny").licence == "not said"
    (note,) = record.notes
    assert note.startswith("No file says whether these are the weights")
    assert find_installed("dinov2_tiny") == record


def test_the_licence_beside_the_weights_is_theirs_whatever_the_catalogue_says(source: Path, listing: Listing) -> None:
    listing()
    (source / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert import_backbone(source, id="dinov2_tiny").licence_name == "cc-by-nc-4.0"
    assert import_backbone(source, id="dinov2_tiny", licence="Own", overwrite=True).licence_name == "Own"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"act_layer": "quick_gelu"}, "activation .*QuickGELU.* but that of these weights is GELU"),
        ({"num_heads": 4}, "number of heads .* is 4, but that of these weights is 2"),
        ({"final_norm": False}, "tensor 'norm"),
    ],
)
def test_a_network_of_the_same_shapes_that_computes_otherwise_is_refused(
    arguments: dict[str, object], words: str, source: Path, listing: Listing, store: Path
) -> None:
    listing(**arguments)
    with pytest.raises(BackboneError, match=rf"'dinov2_tiny' stands for timm's .*{words}.*choose another name"):
        import_backbone(source, id="dinov2_tiny")
    assert not store.exists()


def test_another_epsilon_is_no_other_network(source: Path, listing: Listing) -> None:
    listing()
    add_to_config(source, layer_norm_eps=1e-12)
    assert import_backbone(source, id="dinov2_tiny").architecture.norm_eps == 1e-12
