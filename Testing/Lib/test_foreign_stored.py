"""Files of weights: what is kept of them is read, and nothing of what is left out."""

from __future__ import annotations

import argparse
import collections
import json
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from foreign_models import randomised
from safetensors.torch import save_file
from stored import dinov2_folder, dinov2_model, tensors_of
from transformers import SiglipVisionConfig, SiglipVisionModel

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign import stored
from AnyMC3DLib.foreign.checkpoint import read_checkpoint
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.weights import digest_of

LARGE = 200 << 20
WORDS = "language_model.model.embed_tokens.weight"
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "image_size": 28, "patch_size": 14, "vision_use_head": False}  # fmt: skip


def with_large_tensor(file: Path, name: str) -> None:
    """Put a float16 tensor of zeros at the end of a safetensors file, as a hole that takes no place on the disk."""
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header[name] = {"dtype": "F16", "shape": [LARGE // 64, 32], "data_offsets": [len(data), len(data) + LARGE]}
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text + data)
        stream.truncate(8 + len(text) + len(data) + LARGE)


@pytest.fixture
def medgemma(tmp_path: Path) -> Path:
    """An image tower as MedGemma's files hold it, beside a language model that is much larger."""
    model = randomised(SiglipVisionModel(SiglipVisionConfig(**TOWER)))
    prefix = "vision_tower.vision_model."
    names = {prefix + name.removeprefix("vision_model."): tensor for name, tensor in model.state_dict().items()}
    beside = {"multi_modal_projector.mm_input_projection_weight": torch.ones(32, 8)}
    save_file({**names, **beside}, tmp_path / "model.safetensors")
    config = {"model_type": "gemma3", "vision_config": {**TOWER, "model_type": "siglip_vision_model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_large_language_model_beside_an_image_tower_takes_no_memory(medgemma: Path) -> None:
    alone = read_weights(medgemma)
    with_large_tensor(medgemma / "model.safetensors", WORDS)
    tracemalloc.start()
    try:
        whole = read_weights(medgemma)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert WORDS in whole.dropped
    assert digest_of(whole.model) == digest_of(alone.model)
    assert most < LARGE // 4


def test_no_tensor_that_is_left_out_is_read(medgemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: collections.Counter[str] = collections.Counter()
    own = stored.StoredTensor.read
    monkeypatch.setattr(
        stored.StoredTensor, "read", lambda tensor: (read.update([tensor.name]), own(tensor))[1], raising=True
    )
    with_large_tensor(medgemma / "model.safetensors", WORDS)
    found = read_weights(medgemma)
    assert not read.keys() & set(found.dropped)
    assert read.keys() | set(found.dropped) == set(found.checkpoint.tensors)


def test_what_is_read_is_what_the_library_of_the_format_reads(tmp_path: Path) -> None:
    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.uint8)
    tensors = {str(dtype): (torch.randn(3, 2) * 9).to(dtype) for dtype in types} | {"one": torch.tensor(3.5)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.dtype_of(name) == tensor.dtype
        assert found.tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0)


def test_a_file_that_is_cut_meanwhile_is_told(tmp_path: Path) -> None:
    found = read_checkpoint(dinov2_folder(tmp_path))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    last = max(json.loads(_header(file)).items(), key=lambda item: item[1].get("data_offsets", [0, 0])[1])[0]
    with pytest.raises(BackboneError, match=f"ends within the tensor '{last}'"):
        found.tensors[last]
    file.unlink()
    with pytest.raises(BackboneError, match="cannot be read any more"):
        found.tensors[last]


def _header(file: Path) -> bytes:
    content = file.read_bytes()
    return content[8 : 8 + struct.unpack("<Q", content[:8])[0]]


def test_numbers_of_eight_bits_with_a_fraction_are_refused(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"'a\.weight' in 'a\.safetensors' holds numbers of the type F8_E4M3"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("new", [True, False], ids=["archive", "legacy file"])
def test_what_a_training_program_leaves_beside_the_weights_is_allowed(new: bool, tmp_path: Path) -> None:
    folder = dinov2_folder(tmp_path / "good")
    weights = collections.OrderedDict(tensors_of(folder))
    weights._metadata = collections.OrderedDict({name: {"version": 1} for name in weights})
    model = dinov2_model()
    optimiser = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    left = argparse.Namespace(lr=0.1, betas=(0.9, 0.95), device=torch.device("cuda"), names=["a"] * 50, type=torch.half)
    left.learnt = torch.nn.Parameter(torch.ones(2))
    whole = {
        "model": weights,
        "optimizer": optimiser.state_dict(),
        "args": left,
        "epoch": 3,
        "losses": [0.5] * 1000,
        "size": torch.Size([3, 4]),
    }
    torch.save(whole, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    found = read_checkpoint(tmp_path / "a.pth")
    assert found.tensors.keys() == weights.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in weights.items())
