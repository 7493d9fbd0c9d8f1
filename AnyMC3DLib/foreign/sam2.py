"""The image encoder of SAM 2, of the original repository and of the Transformers library, without its pyramid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..building import shortest
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Converted, Layout, Network, Rule, count, need, rename
from .towers import add_plain_norm, agree, divided, prefix_of, tower, whole_numbers
from .vit import mlp_ratio, normalisation, number_of

# What tensors do not tell of the published models: heads at first, windows by stage, and blocks without windows.
PUBLISHED = {
    "sam2_hiera_tiny": (96, [1, 2, 7, 2], 1, [8, 4, 14, 7], [5, 7, 9]),
    "sam2_hiera_small": (96, [1, 2, 11, 2], 1, [8, 4, 14, 7], [7, 10, 13]),
    "sam2_hiera_base_plus": (112, [2, 3, 16, 3], 2, [8, 4, 14, 7], [12, 16, 20]),
    "sam2_hiera_large": (144, [2, 6, 36, 4], 2, [8, 4, 16, 8], [23, 33, 43]),
}
BUILT_IN = {"patch_kernel_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3], "query_stride": [2, 2],
            "num_query_pool_stages": 3, "hidden_act": "gelu"}  # fmt: skip
LEAF = r"\.(weight|bias)"


@dataclasses.dataclass(frozen=True)
class OriginalSAM2:
    """The files of the SAM 2 repository, and of trainings that went on from it, such as MedSAM2."""

    family: str = "SAM 2"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the names of the trunk, which no other layout has."""
        return not checkpoint.model_type and "image_encoder.trunk.blocks.0.mlp.layers.0.weight" in checkpoint.tensors

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; the pyramid, the memory and the decoder are left out."""
        beside = (
            "image_encoder.neck.",
            "sam_",
            "memory_",
            "mask_downsample.",
            "obj_ptr_",
            "no_mem_",
            "no_obj_",
            "maskmem_",
        )
        inner, outer = tower(checkpoint, "image_encoder.trunk.", beside, layout=self)
        rules = (
            Rule(rf"(patch_embed\.proj{LEAF}|pos_embed|pos_embed_window)", r"\1"),
            Rule(rf"(blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj|proj){LEAF})", r"\1"),
            Rule(rf"(blocks\.\d+)\.mlp\.layers\.0{LEAF}", r"\1.mlp.fc1.\2"),
            Rule(rf"(blocks\.\d+)\.mlp\.layers\.1{LEAF}", r"\1.mlp.fc2.\2"),
        )
        tensors, dropped = rename(inner, rules, layout=self)
        return _converted(self, checkpoint, tensors, {}, (*outer, *dropped))


@dataclasses.dataclass(frozen=True)
class TransformersSAM2:
    """`Sam2HieraDetModel`, alone or within `Sam2VisionModel`, `Sam2Model` and `Sam2VideoModel`."""

    family: str = "SAM 2"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the names of a block's MLP and of the positions of a window."""
        return prefix_of(checkpoint, "blocks.0.mlp.proj_in.weight", self._prefixes) is not None

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; the pyramid, the memory and the decoder are left out."""
        prefix = prefix_of(checkpoint, "blocks.0.mlp.proj_in.weight", self._prefixes) or ""
        beside = ("neck.", "vision_encoder.neck.", "prompt_encoder.", "mask_decoder.", "shared_image_embedding.",
                  "no_memory_", "memory_", "mask_downsample.", "object_pointer_proj.", "no_object_pointer",
                  "temporal_positional_encoding_projection_layer.", "occlusion_spatial_")  # fmt: skip
        inner, outer = tower(checkpoint, prefix, beside, layout=self)
        rules = (
            Rule(rf"patch_embed\.projection{LEAF}", r"patch_embed.proj.\1"),
            Rule(r"(pos_embed|pos_embed_window)", r"\1"),
            Rule(rf"(blocks\.\d+)\.layer_norm([12]){LEAF}", r"\1.norm\2.\3"),
            Rule(rf"(blocks\.\d+\.(?:attn\.qkv|attn\.proj|proj){LEAF})", r"\1"),
            Rule(rf"(blocks\.\d+)\.mlp\.proj_in{LEAF}", r"\1.mlp.fc1.\2"),
            Rule(rf"(blocks\.\d+)\.mlp\.proj_out{LEAF}", r"\1.mlp.fc2.\2"),
        )
        tensors, dropped = rename(inner, rules, layout=self)
        config = checkpoint.config
        for field in ("vision_config", "backbone_config"):
            config = config.get(field, config)
        agree(config, BUILT_IN, layout=self)
        return _converted(self, checkpoint, tensors, config, (*outer, *dropped))

    @property
    def _prefixes(self) -> tuple[str, ...]:
        return ("", "backbone.", "vision_encoder.backbone.")


def _converted(
    layout: Layout,
    checkpoint: Checkpoint,
    tensors: dict[str, Tensor],
    config: Mapping[str, Any],
    dropped: tuple[str, ...],
) -> Converted:
    depth = count(tensors, r"blocks\.(\d+)\.")
    # Each stage but the first begins with a projection to its width.
    starts = [n for n in range(depth) if n == 0 or f"blocks.{n}.proj.weight" in tensors]
    stages = [end - start for start, end in zip(starts, [*starts[1:], depth], strict=True)]
    widths = [need(tensors, f"blocks.{n}.attn.proj.weight", ndim=2).shape[0] for n in starts]
    name = next((n for n, known in PUBLISHED.items() if known[:2] == (widths[0], stages)), None)
    _, _, heads, windows, everywhere = PUBLISHED[name] if name else (0, [], 0, [], [])
    needed = ("num_attention_heads_per_stage", "window_size_per_stage", "global_attention_blocks")
    if name is None and any(config.get(field) is None for field in needed):
        raise BackboneError(
            f"The stages of {stages} blocks, {widths[0]} wide at first, are none of a published model: put the "
            "Transformers library's config.json beside the file."
        )
    per_stage = divided(whole_numbers(config, needed[0], [heads << n for n in range(len(widths))]), widths)
    if any(
        later != 2 * earlier
        for later, earlier in zip([*per_stage[1:], *widths[1:]], [*per_stage[:-1], *widths[:-1]], strict=True)
    ):
        raise BackboneError(
            f"Heads {per_stage} and widths {widths} do not double at each stage: these weights cannot be read."
        )
    positions = need(tensors, "pos_embed", ndim=4)
    args: dict[str, Any] = {
        "embed_dim": widths[0],
        "num_heads": per_stage[0],
        "stages": stages,
        "global_pos_size": list(positions.shape[2:]),
        "window_spec": whole_numbers(config, needed[1], windows),
        "global_att_blocks": whole_numbers(config, needed[2], everywhere, least=0),
    }
    ratio = mlp_ratio(need(tensors, "blocks.0.mlp.fc1.weight", ndim=2).shape[0], widths[0])
    if ratio != 4 or len(args["window_spec"]) != len(stages):
        raise BackboneError(
            f"MLPs {ratio} times as wide and windows {args['window_spec']} are not timm's: these weights "
            "cannot be read."
        )
    architecture = Architecture(
        family=layout.family,
        timm="sam2_hiera_tiny",
        model_args=args,
        input_size=(1024, 1024),
        # Resampled by timm as by its makers, at sizes that hold whole windows.
        positions=Positions(kind="any"),
        norm_eps=number_of(config, "layer_norm_eps", 1e-6),
        **normalisation(checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )
    # Windows leave no trace in tensors, by which networks are told apart.
    if name and (args["window_spec"], args["global_att_blocks"]) == (windows, everywhere):
        architecture = shortest(architecture, [name])
    add_plain_norm(tensors, "head.norm", widths[-1])
    told = all(config.get(field) is not None for field in needed)
    assumed = None if told or not name else Network(name, widths[0], depth, heads)
    return Converted(architecture, tensors, dropped, assumed=assumed)
