"""Weights of any layout become installed backbones with their record, or are refused and leave nothing."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stored import SIZE, dinov2_folder, small_vit, tensors_of
from torch import Tensor

from AnyMC3DLib import backbone_import
from AnyMC3DLib.backbone_import import check_outputs, import_backbone, parts_of
from AnyMC3DLib.backbone_store import InstalledBackbone, find_installed, installed
from AnyMC3DLib.building import build_network
from AnyMC3DLib.catalogue import find_backbone, list_backbones
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import read_checkpoint
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.opening import as_timm_builds, open_backbone
from AnyMC3DLib.weights import digest_of


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dinov2_folder(tmp_path_factory.mktemp("hub") / "dinov2")


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    """A folder of small DINOv2 weights that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "source"))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))
    return tmp_path / "store"


def test_a_file_is_read_by_what_it_holds_and_not_by_its_name(source: Path) -> None:
    by_name = read_weights(source)
    shutil.move(source / "model.safetensors", source / "weights.pt")
    assert digest_of(read_weights(source).model) == digest_of(by_name.model)


def test_an_import_is_installed_with_all_that_is_known_of_it(source: Path) -> None:
    (source / "LICENSE").write_text("Apache License\nVersion 2.0\n")
    (source / "README.md").write_text("---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n# Words\n")
    record = import_backbone(source, id="mine", title="My DINOv2")
    read = read_weights(source)
    assert record == find_installed("mine")
    assert record == InstalledBackbone(
        id="mine",
        title="My DINOv2",
        architecture=read.architecture,
        layout="Transformers",
        digest=digest_of(read.model),
        source_files=("model.safetensors",),
        source_digest=read_checkpoint(source).digest,
        licence="Apache License\nVersion 2.0\n",
        licence_name="apache-2.0",
        imported=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        kind="transformer",
        parameters=record.parameters,
        embed_dim=32,
        patch=14,
        colours_from="family",
        left_out={"mask_token": 1},
    )
    assert record.architecture.input_size == (SIZE, SIZE)


def test_the_installed_file_holds_the_weights_that_were_read(source: Path, store: Path) -> None:
    import_backbone(source, id="mine")
    wanted = read_weights(source).model.state_dict()
    kept = load_file(store / "mine.safetensors")
    assert kept.keys() == wanted.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in wanted.items())


def test_an_installed_backbone_is_found_and_listed_first(source: Path, store: Path) -> None:
    record = import_backbone(source, id="mine", licence="Own")
    entry = find_backbone("mine")
    assert (entry.id, entry.licence, entry.offline, entry.embed_dim, entry.patch) == ("mine", "Own", True, 32, 14)
    assert entry.architecture == record.architecture
    assert (entry.timm, dict(entry.model_args)) == (record.architecture.timm, dict(record.architecture.model_args))
    ((kind, place),) = [(weights.kind, weights.location) for weights in entry.weights]
    assert (kind, Path(place)) == ("installed", store / "mine.safetensors")
    assert next(iter(list_backbones())) == "mine"
    with pytest.raises(BackboneError, match=r"no backbone 'mien' \(did you mean mine"):
        find_backbone("mien")


def test_an_installed_backbone_is_opened_by_its_name(source: Path) -> None:
    record = import_backbone(source, id="mine")
    backbone = open_backbone("mine")
    assert (backbone.id, backbone.digest, backbone.architecture) == ("mine", record.digest, record.architecture)


def test_the_catalogues_name_of_another_network_is_refused(source: Path, store: Path) -> None:
    with pytest.raises(BackboneError, match=r"'dinov2_vits14' stands for timm's 'vit_small.*choose another name"):
        import_backbone(source, id="dinov2_vits14")
    assert not store.exists()


def test_the_same_weights_in_other_files_have_the_same_digest(source: Path, tmp_path: Path) -> None:
    first = import_backbone(source, id="first")
    tensors = tensors_of(source)
    halves = dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])
    parts = tmp_path / "parts"
    parts.mkdir()
    names = {}
    for number, half in enumerate(halves):
        save_file(half, parts / f"part-{number}.safetensors")
        names |= dict.fromkeys(half, f"part-{number}.safetensors")
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    shutil.copy(source / "config.json", parts)
    torch.save({"model": {f"module.{n}": t for n, t in reversed(tensors.items())}, "epoch": 7}, tmp_path / "w.pth")
    shutil.copy(source / "config.json", tmp_path)
    second, third = import_backbone(parts, id="second"), import_backbone(tmp_path / "w.pth", id="third")
    assert first.digest == second.digest == third.digest
    assert first.architecture == second.architecture == third.architecture
    assert second.source_files == ("part-0.safetensors", "part-1.safetensors")
    assert len({r.source_digest for r in (first, second, third)}) == 3


def test_timms_own_weights_are_taken_in_for_the_model_that_is_named(tmp_path: Path) -> None:
    model = small_vit()
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    record = import_backbone(tmp_path / "vit.pth", id="vit", model="test_vit")
    assert (record.architecture.timm, record.layout) == ("test_vit", "timm")
    assert record.digest == digest_of(model)


def test_weights_without_a_known_layout_are_refused(tmp_path: Path, store: Path) -> None:
    torch.save(small_vit().state_dict(), tmp_path / "vit.pth")
    with pytest.raises(BackboneError, match=r"layout of these weights is not known.*--model"):
        import_backbone(tmp_path / "vit.pth", id="vit")
    with pytest.raises(BackboneError, match="timm has no model 'dragon'"):
        import_backbone(tmp_path / "vit.pth", id="vit", model="dragon")
    assert not store.exists()


def test_a_name_that_is_taken_is_refused_before_the_weights_are_read(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = import_backbone(source, id="mine")
    with monkeypatch.context() as patch:
        patch.setattr(backbone_import, "read_weights", lambda *_, **__: pytest.fail("the weights were read"))
        with pytest.raises(BackboneError, match="installed backbone 'mine' already"):
            import_backbone(source, id="mine")
        with pytest.raises(BackboneError, match="cannot be the name"):
            import_backbone(source, id="../mine", overwrite=True)
    assert import_backbone(source, id="mine", overwrite=True, title="again").title == "again"
    assert installed()["mine"].digest == first.digest


@pytest.mark.parametrize(
    ("front", "name"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\r\nlicense: 'cc-by-nc-4.0'\r\n---\r\n", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [a]\n---\nlicense: mit\n", ""),
        ("license: mit\n", ""),
        ("---\nlicense: " + "x" * 200 + "\n---\n", ""),
        ("---\nlicense: \x1b[31mred\n---\n", ""),
        ("", ""),
    ],
)
def test_the_licences_name_is_that_of_the_readmes_front_matter(front: str, name: str, source: Path) -> None:
    (source / "README.md").write_text(front + "# Model\n", newline="")
    assert read_checkpoint(source).licence_name == name


def test_the_licence_that_is_given_goes_before_that_of_the_files(source: Path) -> None:
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    assert import_backbone(source, id="mine", licence="As agreed with the makers").licence_name.startswith("As agreed")


@pytest.mark.parametrize("text", ["two\nlines", "x" * 200, "\x1b[31mred"])
def test_a_title_or_licence_that_is_no_line_is_refused(text: str, source: Path, store: Path) -> None:
    with pytest.raises(BackboneError, match="The title must be one line"):
        import_backbone(source, id="mine", title=text)
    with pytest.raises(BackboneError, match="The licence must be one line"):
        import_backbone(source, id="mine", licence=text)
    assert not store.exists()


def test_weights_whose_answers_are_no_numbers_are_refused(source: Path, store: Path) -> None:
    tensors = tensors_of(source)
    tensors["embeddings.patch_embeddings.projection.weight"] *= 1e38
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(BackboneError, match=r"'model\.safetensors' answers with values that are not finite"):
        import_backbone(source, id="mine")
    assert not store.exists()


def test_a_network_that_takes_no_slices_is_refused() -> None:
    class Deaf(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError(f"long and technical {x.shape}")

    architecture = backbone_import.Architecture(family="", timm="deaf")
    with pytest.raises(BackboneError) as error:
        check_outputs(Deaf(), architecture, of="w.pth")
    assert "technical" not in str(error.value)


def test_the_colours_are_those_of_the_processor_beside_the_weights(source: Path) -> None:
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.1]}
    (source / "preprocessor_config.json").write_text(json.dumps(colours))
    record = import_backbone(source, id="mine")
    made = record.architecture
    assert (made.mean, made.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    assert record.colours_from == "preprocessor_config.json"


COLOURS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.1]}
OTHERS = {"image_mean": [0.1, 0.1, 0.1], "image_std": [0.9, 0.9, 0.9]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("files", "mean", "origin"),
    [
        ({"processor_config.json": {"image_processor": COLOURS}}, 0.5, "processor_config.json"),
        # Transformers takes the nested one first.
        (
            {"processor_config.json": {"image_processor": COLOURS}, "preprocessor_config.json": OTHERS},
            0.5,
            "processor_config.json",
        ),
        # As older versions write it: without colours in it.
        (
            {"processor_config.json": {"image_seq_length": 3}, "preprocessor_config.json": COLOURS},
            0.5,
            "preprocessor_config.json",
        ),
        ({"processor_config.json": {"image_processor": {"do_normalize": False}}}, 0.0, "processor_config.json"),
        ({"preprocessor_config.json": IMAGENET}, 0.485, "preprocessor_config.json"),
        ({"processor_config.json": {"image_processor": "ViTImageProcessor"}}, 0.485, "family"),
        ({"preprocessor_config.json": {"size": {"height": 28, "width": 28}}}, 0.485, "family"),
        ({}, 0.485, "family"),
    ],
)
def test_an_import_tells_from_where_the_colours_are(
    files: dict[str, object], mean: float, origin: str, source: Path
) -> None:
    for name, content in files.items():
        (source / name).write_text(json.dumps(content))
    record = import_backbone(source, id="mine")
    assert record.architecture.mean[0] == mean
    assert record.colours_from == origin
    assert find_installed("mine") == record


def test_the_processors_file_that_transformers_writes_is_read(source: Path) -> None:
    from transformers import CLIPImageProcessor
    from transformers.processing_utils import ProcessorMixin

    image_processor = CLIPImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.1])

    class Images(ProcessorMixin):
        attributes = ("image_processor",)
        image_processor_class = "CLIPImageProcessor"

        def __init__(self, image_processor: object = None, chat_template: str | None = None) -> None:
            super().__init__(image_processor)

    Images(image_processor).save_pretrained(source)
    assert not (source / "preprocessor_config.json").exists()
    record = import_backbone(source, id="mine")
    assert (record.architecture.mean, record.colours_from) == ((0.5, 0.4, 0.3), "processor_config.json")


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        ({"size": {"height": 96, "width": 80}}, (96, 80)),
        ({"size": {"shortest_edge": 112}}, (112, 112)),
        ({"size": {"shortest_edge": 112}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}}, (64, 64)),
        ({"size": 80}, (80, 80)),
        ({"size": {"longest_edge": 80}}, (224, 224)),
        ({"size": "large"}, (224, 224)),
        ({"size": 1 << 40}, (224, 224)),
        ({}, (224, 224)),
    ],
)
def test_the_size_of_a_network_that_takes_any_is_that_of_the_processor(
    processor: dict[str, object], size: tuple[int, int], tmp_path: Path
) -> None:
    from foreign_models import randomised, saved
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(hidden_sizes=[32, 48, 64, 80], depths=[1, 1, 1, 1], layer_type="basic")
    folder = saved(randomised(ResNetModel(config)), tmp_path / "resnet")
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    assert import_backbone(folder, id="mine").architecture.input_size == size


def test_what_an_import_leaves_out_is_counted_by_part() -> None:
    kept = ["model.vision_tower.embeddings.weight", *(f"model.vision_tower.layers.{n}.attn.weight" for n in (0, 1))]
    out = [
        *(f"model.language_model.layers.{n}.weight" for n in range(7)),
        *(f"model.vision_tower.layers.{n}.attn.relative_position_index" for n in range(2)),
        "model.vision_tower.embeddings.mask_token",
        "classifier.weight",
        "classifier.bias",
    ]
    counted = parts_of(out, among=[*kept, *out])
    assert counted == {"language_model": 7, "relative_position_index": 2, "classifier": 2, "mask_token": 1}
    assert next(iter(counted)) == "language_model"
    assert parts_of([], among=kept) == {}
    many = parts_of([f"part{n}.weight" for n in range(9)] + ["part0.bias"], among=kept)
    assert (many["part0"], many["other parts"], len(many)) == (2, 5, 5)


def test_a_folder_of_the_hubs_cache_is_read_through_its_links(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (source / "LICENSE").write_text("The words.\n")
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    for file in source.iterdir():
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.move(file, blob)
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    record = import_backbone(snapshot, id="mine")
    assert record.source_files == ("model.safetensors",)
    assert (record.licence, record.licence_name) == ("The words.\n", "mit")
    # Weights in a folder of the repository's link to the same blobs.
    inner = snapshot / "vision"
    inner.mkdir()
    for link in [file for file in snapshot.iterdir() if file.is_symlink()]:
        (inner / link.name).symlink_to(Path("..") / link.readlink())
    assert import_backbone(inner, id="inner").licence == "The words.\n"


@pytest.mark.parametrize("name", ["LICENSE", "LICENCE.txt", "README.md"])
def test_a_licence_that_links_to_elsewhere_is_left_out_and_told(
    name: str, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secret").write_text("---\nlicense: a secret\n---\n")
    (source / name).symlink_to(tmp_path / "secret")
    record = import_backbone(source, id="mine")
    assert (record.licence, record.licence_name) == ("", "")
    assert f"'{name}' beside the weights is a link that leads out of its folder" in caplog.text


@pytest.mark.parametrize("through_blob", [True, False])
def test_a_folder_that_looks_like_the_hubs_cache_brings_no_file_from_elsewhere(
    through_blob: bool, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "secret").write_text("secret")
    cache = tmp_path / "models--a--b"
    snapshot = Path(shutil.copytree(source, cache / "snapshots" / "abc"))
    if through_blob:
        (cache / "blobs").mkdir()
        (cache / "blobs" / "secret").symlink_to(tmp_path / "away" / "secret")
    else:
        (cache / "blobs").symlink_to(tmp_path / "away")
    (snapshot / "LICENSE").symlink_to(Path("..") / ".." / "blobs" / "secret")
    assert import_backbone(snapshot, id="mine").licence == ""


def test_each_librarys_weights_are_read_with_its_own_config(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    assert read_checkpoint(source).config == config
    (source / "model.safetensors").rename(source / "open_clip_model.safetensors")
    assert read_checkpoint(source).config == {"model_cfg": {}}


@pytest.mark.parametrize("name", ["sam_vitb16", "hiera_tiny", "swin_tiny", "beit_vitb16", "davit_tiny"])
def test_a_catalogues_name_stands_for_timms_network_also_where_its_size_is_fixed(name: str) -> None:
    with torch.device("meta"):
        assert len(build_network(as_timm_builds(find_backbone(name))).state_dict()) > 100


def test_a_long_licence_in_any_script_leaves_a_backbone_that_can_be_listed(source: Path) -> None:
    (source / "LICENSE").write_text("\u6cd5" * 900_000, encoding="utf-8")
    import_backbone(source, id="mine")
    assert set(installed()) == {"mine"}
