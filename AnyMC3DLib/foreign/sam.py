"""The image encoder of Segment Anything (SAM), of the original repository and of the Transformers library."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..building import shortest
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Converted, Layout, Rule, count, need, rename
from .published import assumed_network
from .towers import agree, prefix_of, tower, whole_numbers
from .vit import heads_of, mlp_ratio, normalisation, number_of

# timm's models by width.
KNOWN = {"samvit_base_patch16": 768, "samvit_large_patch16": 1024, "samvit_huge_patch16": 1280}
LEAF = r"\.(weight|bias)"
BESIDE = ("prompt_encoder.", "mask_decoder.", "shared_image_embedding.", "pixel_mean", "pixel_std")


@dataclasses.dataclass(frozen=True)
class OriginalSAM:
    """The files of the Segment Anything repository, and of trainings that went on from it, such as MedSAM.

    MedSAM's authors give its encoder slices from 0 to 1 as they are, where SAM standardises colours. The tensors do
    not tell the two apart: a file whose name begins with MedSAM's, as it was published, is taken as MedSAM.
    """

    family: str = "SAM"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the names within a block and of the neck."""
        names = checkpoint.tensors.keys()
        return not checkpoint.model_type and any(
            {f"{prefix}blocks.0.mlp.lin1.weight", f"{prefix}neck.0.weight"} <= names
            for prefix in ("image_encoder.", "")
        )

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; prompt encoder and mask decoder are left out."""
        prefix = prefix_of(checkpoint, "neck.0.weight", ("image_encoder.", "")) or ""
        inner, outer = tower(checkpoint, prefix, BESIDE, layout=self)
        rules = (
            Rule(rf"(patch_embed\.proj{LEAF}|pos_embed)", r"\1"),
            Rule(rf"(blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj){LEAF})", r"\1"),
            Rule(r"(blocks\.\d+\.attn\.rel_pos_[hw])", r"\1"),
            Rule(rf"(blocks\.\d+)\.mlp\.lin([12]){LEAF}", r"\1.mlp.fc\2.\3"),
            Rule(rf"(neck\.[0-3]{LEAF})", r"\1"),
        )
        tensors, dropped = rename(inner, rules, layout=self)
        if len(checkpoint.files) == 1 and checkpoint.files[0].lower().startswith("medsam"):
            checkpoint = dataclasses.replace(checkpoint, processor={"do_normalize": False, **checkpoint.processor})
        return _converted(self, checkpoint, tensors, {}, (*outer, *dropped))


@dataclasses.dataclass(frozen=True)
class TransformersSAM:
    """`SamVisionModel`, alone or within `SamModel`."""

    family: str = "SAM"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the kind of the config, else by the names of a layer."""
        if checkpoint.model_type:
            return checkpoint.model_type in ("sam", "sam_vision_model")
        return {
            "vision_encoder.layers.0.mlp.lin1.weight",
            "vision_encoder.neck.conv1.weight",
        } <= checkpoint.tensors.keys()

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; prompt encoder and mask decoder are left out."""
        inner, outer = tower(checkpoint, "vision_encoder.", BESIDE, layout=self)
        layer = r"layers\.(\d+)"
        rules = (
            Rule(rf"patch_embed\.projection{LEAF}", r"patch_embed.proj.\1"),
            Rule(r"pos_embed", "pos_embed"),
            Rule(rf"{layer}\.layer_norm([12]){LEAF}", r"blocks.\1.norm\2.\3"),
            Rule(rf"{layer}\.(attn\.(?:qkv|proj)){LEAF}", r"blocks.\1.\2.\3"),
            Rule(rf"{layer}\.(attn\.rel_pos_[hw])", r"blocks.\1.\2"),
            Rule(rf"{layer}\.mlp\.lin([12]){LEAF}", r"blocks.\1.mlp.fc\2.\3"),
            Rule(r"neck\.conv1\.weight", "neck.0.weight"),
            Rule(rf"neck\.layer_norm1{LEAF}", r"neck.1.\1"),
            Rule(r"neck\.conv2\.weight", "neck.2.weight"),
            Rule(rf"neck\.layer_norm2{LEAF}", r"neck.3.\1"),
        )
        tensors, dropped = rename(inner, rules, layout=self)
        config = checkpoint.config.get("vision_config", checkpoint.config)
        agree(config, {"hidden_act": "gelu"}, layout=self)
        return _converted(self, checkpoint, tensors, config, (*outer, *dropped))


def _converted(
    layout: Layout,
    checkpoint: Checkpoint,
    tensors: dict[str, Tensor],
    config: Mapping[str, Any],
    dropped: tuple[str, ...],
) -> Converted:
    assumed = assumed_network(config, tensors, layout=layout)
    positions, patch = need(tensors, "pos_embed", ndim=4), need(tensors, "patch_embed.proj.weight", ndim=4)
    width, grid = patch.shape[0], positions.shape[1]
    if positions.shape[1] != positions.shape[2]:
        raise BackboneError(
            f"The positions are for {list(positions.shape[1:3])} patches, which is no square: get another file."
        )
    depth = count(tensors, r"blocks\.(\d+)\.")
    # Positions relative to each other span the window, or the whole grid where attention is global.
    spans = [(need(tensors, f"blocks.{n}.attn.rel_pos_h", ndim=2).shape[0] + 1) // 2 for n in range(depth)]
    windowed = {span for span in spans if span != grid}
    everywhere = [n for n, span in enumerate(spans) if span == grid]
    if len(windowed) > 1 or whole_numbers(config, "global_attn_indexes", everywhere, least=0) != everywhere:
        raise BackboneError(
            f"The attention's spans {sorted(set(spans))} are no single window and the whole: get the file again."
        )
    size = grid * patch.shape[2]
    args: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch.shape[2],
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads_of(config, assumed),
        "mlp_ratio": mlp_ratio(need(tensors, "blocks.0.mlp.fc1.weight", ndim=2).shape[0], width),
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "window_size": windowed.pop() if windowed else 0,
        "global_attn_indexes": everywhere,
        "neck_chans": need(tensors, "neck.0.weight", ndim=4).shape[0],
    }
    if args["num_heads"] < 1 or width % args["num_heads"]:
        raise BackboneError(
            f"{args['num_heads']} attention heads do not divide the width {width}: get the file's config again."
        )
    architecture = Architecture(
        family=layout.family,
        timm="samvit_base_patch16",
        model_args=args,
        input_size=(size, size),
        # Its authors' code takes no other size.
        positions=Positions(kind="fixed"),
        norm_eps=number_of(config, "layer_norm_eps", 1e-6),
        **normalisation(checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )
    architecture = shortest(architecture, [name for name, known in KNOWN.items() if known == width])
    return Converted(architecture, tensors, dropped, assumed=assumed)
