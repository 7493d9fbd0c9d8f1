"""Weights in 16 bits for a while: every bit comes back, answers barely move, and it is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import KINDS, backbone_of_kind, grey_slices, three_views, tiny_backbone, tiny_network
from torch import nn
from volumes import study

from AnyMC3DLib.backbone import Backbone, Encoded
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.entrances import Stage
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.precision import DTYPES, best_precision, name_of
from AnyMC3DLib.prediction import Prediction, Study
from AnyMC3DLib.spec import FusionSpec, LoRASpec
from AnyMC3DLib.weights import digest_of

LOW = [torch.bfloat16, torch.float16]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STUDY = Study({"image": study()})


def bits(model: nn.Module) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Every parameter and every buffer, those too that no state dict keeps, and how they lie in memory."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: (tensor.dtype, tensor.stride(), tensor.detach().flatten().view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("dtype", LOW, ids=name_of)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_comes_back_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(2)
    before, embedding = bits(backbone.model), backbone.encode(slices).embedding
    backbone.set_precision(dtype)
    assert backbone.dtype == dtype
    lowered = backbone.encode(slices).embedding
    assert lowered.dtype == dtype
    assert not torch.equal(lowered.float(), embedding)
    torch.testing.assert_close(lowered.float(), embedding, rtol=0.1, atol=0.1 * float(embedding.abs().max()))
    assert digest_of(backbone.model) != backbone.digest
    # From one to the other, and the same again.
    for other in (*LOW, dtype, dtype, torch.float32, torch.float32):
        backbone.set_precision(other)
        assert backbone.dtype == other
    assert bits(backbone.model) == before
    assert digest_of(backbone.model) == backbone.digest
    assert torch.equal(backbone.encode(slices).embedding, embedding)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("kind", ["ResNet", "EfficientNet", "wide pooled features"])
def test_batch_norms_keep_float32_and_all_other_layers_do_not(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    backbone.set_precision(torch.bfloat16)
    norms = 0
    for module in backbone.model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if isinstance(module, nn.BatchNorm2d):
                norms += 1
                assert tensor.dtype in (torch.float32, torch.int64)
            else:
                assert tensor.dtype == torch.bfloat16
    assert norms > 0


@pytest.mark.parametrize("dtype", LOW, ids=name_of)
@pytest.mark.parametrize("kind", ["class token", "EfficientNet"])
def test_merging_an_adapter_in_16_bits_puts_every_bit_back(kind: str, dtype: torch.dtype) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(2)
    network = calm(backbone)
    backbone.set_precision(dtype)
    before, key = bits(backbone.model), network.adapter_key("axial")
    by_hooks = network.encode(network.spec.views[0], slices).embedding.float()
    with backbone.sites.merged(key):
        assert backbone.dtype == dtype
        merged = backbone.encode(slices).embedding.float()
    torch.testing.assert_close(merged, by_hooks, rtol=0.1, atol=0.1 * float(by_hooks.detach().abs().max()))
    assert bits(backbone.model) == before


# What the device is good at


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 1), torch.float32),  # Pascal
        ((7, 0), torch.float16),  # Volta
        ((7, 5), torch.float16),  # Turing
        ((8, 0), torch.bfloat16),  # Ampere
        ((8, 9), torch.bfloat16),  # Ada
        ((9, 0), torch.bfloat16),  # Hopper
        ((12, 0), torch.bfloat16),  # Blackwell
    ],
)
def test_a_cards_generation_decides_its_precision(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert best_precision(CUDA) == expected
    assert best_precision(CPU) == best_precision(torch.device("mps")) == torch.float32


def test_precisions_have_torchs_names() -> None:
    assert {name: name_of(dtype) for name, dtype in DTYPES.items()} == {name: name for name in DTYPES}
    with pytest.raises(InputError, match="no precision 'half': choose auto, float32, bfloat16, float16"):
        Classifier(tiny_backbone(depth=1), precision="half")


# The engine


def calm(backbone: Backbone, seed: int = 3, **fields: object) -> PluginNetwork:
    """A plugin like a trained one: small changes of the weights, probabilities well within 0 and 1."""
    network = tiny_network(backbone, seed=seed, **fields)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            factor = 0.1 if name.endswith(("B", "query")) else 0.05 if name.startswith("head") else 1.0
            tensor.mul_(factor)
    return network


def answers_in(
    backbone: Backbone, precision: str, networks: list[PluginNetwork], **options: object
) -> list[Prediction]:
    engine = Classifier(backbone, precision=precision, batch=8, **options)
    for network in networks:
        engine.add(network.spec, [network])
    found = list(engine.classify(STUDY).values())
    assert backbone.dtype == (torch.float32 if precision == "auto" else DTYPES[precision])
    return found


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kind", ["registers", "norms within attention", "DINOv3", "EfficientNet", "ConvNeXt"])
def test_in_bfloat16_a_probability_moves_by_a_hundredth_at_most_and_that_is_said(kind: str, together: bool) -> None:
    backbone = backbone_of_kind(kind)
    views = three_views(backbone, size=(32, 48) if backbone.kind == "transformer" else (64, 96))
    tasks = ("multiclass", "binary", "multilabel")
    networks = [calm(backbone, n, name=task, task_type=task, views=views) for n, task in enumerate(tasks)]
    exact = answers_in(backbone, "auto", networks)
    lowered = answers_in(backbone, "bfloat16", networks, together=together)
    again = answers_in(backbone, "float32", networks)
    warning = "Computed in bfloat16: a probability may differ from float32's by about 0.01."
    moved = []
    for full, low, back in zip(exact, lowered, again, strict=True):
        moved += [abs(low.probabilities[name] - p) for name, p in full.probabilities.items()]
        assert warning in low.warnings
        assert not any("float32" in text for text in (*full.warnings, *back.warnings))
        assert [p.provenance["precision"] for p in (full, low, back)] == ["float32", "bfloat16", "float32"]
        assert back.probabilities == full.probabilities
        assert 0.05 < min(full.probabilities.values()) < max(full.probabilities.values()) < 0.95
        assert low.maps.keys() == full.maps.keys()
    assert 0 < max(moved) <= 0.01
    assert digest_of(backbone.model) == backbone.digest


def test_each_classify_has_the_precision_that_was_asked_for() -> None:
    backbone = tiny_backbone(depth=2)
    network = calm(backbone)
    engine = Classifier(backbone, precision="bfloat16")
    engine.add(network.spec, [network])
    expected = engine.classify(STUDY)["Test"]
    # As a training on the same backbone leaves it.
    backbone.set_precision(torch.float32)
    found = engine.classify(STUDY)["Test"]
    assert found.provenance["precision"] == "bfloat16"
    assert found.probabilities == expected.probabilities


def test_gradients_in_float32_are_the_same_after_answers_in_bfloat16() -> None:
    backbone, slices = backbone_of_kind("registers"), grey_slices(3)
    network = calm(backbone, lora=LoRASpec(rank=2, targets=("attention", "mlp", "patch_embed")))

    def gradients() -> list[torch.Tensor]:
        loss = network([{"axial": slices}]).logits.sum()
        return list(torch.autograd.grad(loss, list(network.parameters())))

    before = gradients()
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    answers_in(backbone, "bfloat16", [network])
    assert all(tensor.dtype == torch.float32 for tensor in network.state_dict().values())
    backbone.set_precision(torch.float32)
    for ours, theirs in zip(gradients(), before, strict=True):
        assert torch.equal(ours, theirs)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())


# Values that are not finite


def spoil(monkeypatch: pytest.MonkeyPatch, value: float, when: Callable[[Backbone], bool]) -> None:
    """Let embeddings hold a value that is not finite."""
    encode = Backbone.encode_from

    def spoilt(backbone: Backbone, stage: Stage, **options: object) -> Encoded:
        encoded = encode(backbone, stage, **options)
        if when(backbone):
            encoded.embedding[-1, 0] = value
        return encoded

    monkeypatch.setattr(Backbone, "encode_from", spoilt)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_past_the_range_of_16_bits_are_computed_in_float32_from_then_on(
    monkeypatch: pytest.MonkeyPatch, precision: str, value: float
) -> None:
    backbone = tiny_backbone(depth=1)
    network = calm(backbone)
    expected = answers_in(backbone, "float32", [network])[0]
    spoil(monkeypatch, value, lambda backbone: backbone.dtype != torch.float32)
    engine = Classifier(backbone, precision=precision)
    engine.add(network.spec, [network])
    for _ in range(2):
        found = engine.classify(STUDY)["Test"]
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
        step = {"why": "values went past its range", "was": f"cpu in {precision}", "now": "cpu in float32"}
        assert found.provenance["memory_steps"] == [step]
        assert found.provenance["precision"] == "float32"
        sentence = f"Computed on cpu in float32, because on cpu in {precision} values went past its range."
        assert [text for text in found.warnings if text not in expected.warnings] == [sentence]


@pytest.mark.parametrize("fusion", ["attention", "mean", "max", "median"])
def test_values_that_are_not_finite_in_float32_are_the_images_or_the_plugins_fault(
    monkeypatch: pytest.MonkeyPatch, fusion: str
) -> None:
    backbone = tiny_backbone(depth=1)
    network = calm(backbone, fusion=FusionSpec(kind=fusion))
    with monkeypatch.context() as spoiling:
        spoil(spoiling, float("nan"), lambda _: True)
        with pytest.raises(InputError, match="values that are not finite for this study: check the image's values"):
            answers_in(backbone, "float32", [network])
    assert answers_in(backbone, "float32", [network])[0].provenance["memory_steps"] == []
