"""SigLIP's image tower, as the Transformers library keeps it; the tower of texts, or a language model, is left out.

SigLIP 2 of a fixed size, MedSigLIP and the image tower of MedGemma are kept in the same way.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from ..architecture import Architecture, Positions
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .clip import activation_of, standard_names, tower_prefix, tower_tensors, vision_config
from .layout import Converted, Network, Rule, need
from .published import assumed_network
from .vit import heads_of, normalisation, number_of, square, vit_architecture

HALF = (0.5, 0.5, 0.5)
HEAD = (
    Rule(r"head\.probe", "attn_pool.latent"),
    Rule(r"head\.attention\.in_proj_(weight|bias)", r"attn_pool.qkv.\1"),
    Rule(r"head\.attention\.out_proj\.(weight|bias)", r"attn_pool.proj.\1"),
    Rule(r"head\.layernorm\.(weight|bias)", r"attn_pool.norm.\1"),
    Rule(r"head\.mlp\.(fc[12])\.(weight|bias)", r"attn_pool.mlp.\1.\2"),
)
KINDS = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")


@dataclasses.dataclass(frozen=True)
class TransformersSigLIP:
    """`SiglipModel`, `SiglipVisionModel`, `Siglip2Model`, `Siglip2VisionModel` and models that hold such a tower.

    The embedding is what the pooling query reads from the patches. Where the tower has no pooling query, as in
    MedGemma, it is the mean of the patches after the last normalisation.
    """

    family: str = "SigLIP"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the kind of the image tower, else by its names, where CLIP has a class embedding besides."""
        prefix = tower_prefix(checkpoint.tensors)
        if prefix is None:
            return False
        if checkpoint.model_type:
            return checkpoint.model_type in KINDS or vision_config(checkpoint).get("model_type") in KINDS
        wanted = (f"{prefix}embeddings.position_embedding.weight", f"{prefix}post_layernorm.weight")
        is_clip = f"{prefix}embeddings.class_embedding" in checkpoint.tensors
        return all(name in checkpoint.tensors for name in wanted) and not is_clip

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; the pooling query's joined weights are taken apart into query, and key and value."""
        tensors, dropped = tower_tensors(checkpoint, HEAD, layout=self)
        for leaf in ("weight", "bias"):
            name = f"attn_pool.qkv.{leaf}"
            if name in tensors:
                joined = need(tensors, name, ndim=2 if leaf == "weight" else 1)
                del tensors[name]
                third = joined.shape[0] // 3
                tensors[f"attn_pool.q.{leaf}"], tensors[f"attn_pool.kv.{leaf}"] = joined[:third], joined[third:]
        flexible = "patch_embed.proj.weight" in tensors and tensors["patch_embed.proj.weight"].ndim == 2
        if flexible:
            _unfold_patches(tensors)
        assumed = assumed_network(vision_config(checkpoint), tensors, layout=self)
        architecture = self._architecture(checkpoint, tensors, assumed, flexible=flexible)
        return Converted(architecture, tensors, dropped, assumed=assumed)

    def _architecture(
        self, checkpoint: Checkpoint, tensors: dict[str, Tensor], assumed: Network | None, *, flexible: bool
    ) -> Architecture:
        config = vision_config(checkpoint)
        whole = checkpoint.model_type in KINDS and config.get("vision_use_head", True)
        kind = "siglip" if whole or any(name.startswith("attn_pool.") for name in tensors) else "siglip_gap"
        activation = activation_of(config.get("hidden_act", "gelu_pytorch_tanh"))
        more: dict[str, Any] = {} if activation == "gelu" else {"act_layer": activation}
        return vit_architecture(
            tensors,
            family=self.family,
            base=f"vit_base_patch16_{kind}_224",
            known=standard_names(tensors, f"{kind}_", prefix=0),
            heads=heads_of(config, assumed),
            positions=Positions(mode="bilinear", antialias=True) if flexible else Positions(antialias=False),
            norm_eps=number_of(config, "layer_norm_eps", 1e-6),
            **normalisation(checkpoint, mean=HALF, std=HALF),
            **more,
        )


def _unfold_patches(tensors: dict[str, Tensor]) -> None:
    """Weights [D, p p 3] over patches that were laid out as rows of pixels become a convolution's [D, 3, p, p]."""
    flat = tensors["patch_embed.proj.weight"]
    if flat.shape[1] % 3:
        raise BackboneError(f"Patches of {flat.shape[1]} values are not of 3 colours: use a model for colour images.")
    side = square(flat.shape[1] // 3)
    tensors["patch_embed.proj.weight"] = flat.reshape(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()
