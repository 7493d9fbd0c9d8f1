"""The attention of the class token in the last block, seen beside fused attention, and the way from it on.

timm's attention layers call `scaled_dot_product_attention` with queries, keys and values that are complete: adapted,
normalised and rotated. Seen there, one row of the attention matrix is enough, for every kind of layer alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent, AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaAttention, EvaBlock
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import BackboneError

BLOCKS = (Block, EvaBlock, BeitBlock)
LAYERS = (Attention, AttentionRope, EvaAttention, BeitAttention)


def for_and_against(products: Tensor, *, dim: int) -> Tensor:
    """The positive and the negative products apart, each summed over `dim` (heads or channels): [2, ...], >= 0."""
    return torch.stack([products.clamp_min(0).sum(dim=dim), (-products).clamp_min(0).sum(dim=dim)])


@dataclasses.dataclass(frozen=True)
class AttentionTail:
    """The class row of the last attention, and the way from it to the embedding.

    `leaf` [B, heads, 1, N] is the row after softmax; a class map is row times gradient, over heads.
    """

    leaf: Tensor
    embed: Callable[[Tensor], Tensor]
    grid: tuple[int, int]
    prefix: int

    def products(self, gradient: Tensor) -> Tensor:
        """Row times gradient per head and patch [B, heads, h, w]: linear in what the gradient is of."""
        return (self.leaf * gradient)[:, :, 0, self.prefix :].unflatten(2, self.grid)

    def contributions(self, gradient: Tensor) -> Tensor:
        """What speaks for and against, per patch [2, B, h, w], both >= 0, for what the gradient is of."""
        return for_and_against(self.products(gradient), dim=1)


class LastAttention:
    """The attention through which the embedding reads the patches: the last block's, or a pooling query's."""

    def __init__(self, model: nn.Module, layer: nn.Module, block: nn.Module | None, prefix: int) -> None:
        self.model, self.layer, self.block, self.prefix = model, layer, block, prefix
        layer.fused_attn = True
        wanted = (layer, block)
        self.layers = [name for name, module in model.named_modules() if any(module is w for w in wanted)]

    @classmethod
    def of(cls, model: nn.Module) -> LastAttention | None:
        """The last attention of a timm transformer; None where the embedding reads the patches in another way."""
        prefix = int(getattr(model, "num_prefix_tokens", 0))
        pool = getattr(model, "attn_pool", None)
        if isinstance(pool, AttentionPoolLatent):
            # timm's Eva always pools the prefix tokens too, and has no such setting.
            return cls(model, pool, None, prefix if getattr(model, "pool_include_prefix", True) else 0)
        block = model.blocks[-1]
        layer = getattr(block, "attn", None)
        # A distilled model's embedding is the mean of two tokens.
        if getattr(model, "global_pool", "") != "token" or hasattr(model, "head_dist"):
            return None
        # What these do between attention and embedding is known; other kinds mask or subtract.
        if type(block) not in BLOCKS or type(layer) not in LAYERS:
            return None
        return cls(model, layer, block, prefix)

    @contextmanager
    def watching(self) -> Iterator[SeenAttention]:
        """Within the block, one forward pass of the model is seen."""
        seen = SeenAttention(self)
        handles = [self.layer.register_forward_pre_hook(seen.enter)]
        if self.block is not None:
            handles.append(self.block.register_forward_pre_hook(seen.enter_block))
        try:
            with seen:
                yield seen
        finally:
            for handle in handles:
                handle.remove()


class SeenAttention(TorchFunctionMode):
    """Row 0 of the last attention and what the class token needs to go on from there."""

    def __init__(self, place: LastAttention) -> None:
        super().__init__()
        self.place = place
        self.inside = False
        self.row: Tensor | None = None
        self.values: Tensor | None = None
        self.block_input: Tensor | None = None
        self.layer_input: Tensor | None = None

    def enter(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """The last attention layer is about to run."""
        self.inside = True
        self.layer_input = inputs[0][:, :1]

    def enter_block(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """The last block is about to run."""
        self.block_input = inputs[0][:, :1]

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.inside and func is F.scaled_dot_product_attention:
            self.inside = False
            query, key, value = args[:3]
            scale = query.shape[-1] ** -0.5
            scores = (query[:, :, :1] * scale) @ key.transpose(-2, -1)
            bias = args[3] if len(args) > 3 else (kwargs or {}).get("attn_mask")
            if bias is not None:
                # BEiT's relative positions.
                scores = scores + bias[..., :1, :]
            # A row in 16 bits would no longer add up to 1.
            self.row = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
            self.values = value
        return func(*args, **(kwargs or {}))

    def patch_attention(self, grid: tuple[int, int]) -> Tensor:
        """Mean of heads over the patches [B, h, w]; the share of class and register tokens is left out."""
        if self.row is None:
            raise BackboneError("This backbone computes its last attention in a way that cannot be read.")
        return self.row.float().mean(dim=1)[:, 0, self.place.prefix :].unflatten(1, grid)

    def tail(
        self, model: nn.Module, grid: tuple[int, int], acting: Callable[[int], AbstractContextManager]
    ) -> AttentionTail:
        """The class row as a leaf, and the way from it to the embedding, for the class token alone."""
        if self.row is None:
            raise BackboneError("This backbone computes its last attention in a way that cannot be read.")
        # Copies: a view would keep queries, keys and all tokens of the block alive, five times the values' memory.
        row, values = self.row.detach(), self.values.detach().clone()
        kept = {name: getattr(self, name) for name in ("block_input", "layer_input")}
        kept = {name: None if tensor is None else tensor.detach().clone() for name, tensor in kept.items()}

        def embed(leaf: Tensor) -> Tensor:
            with acting(len(leaf)):
                attended = (leaf.to(values.dtype) @ values).transpose(1, 2).flatten(2)
                if self.place.block is None:
                    return model.fc_norm(_after_pooling(self.place.layer, attended))
                token = _after_attention(self.place.layer, attended, kept["layer_input"])
                token = _rest_of_block(self.place.block, kept["block_input"], token)
                return model.forward_head(model.norm(token), pre_logits=True)

        return AttentionTail(row, embed, grid, self.place.prefix)


def _after_pooling(pool: AttentionPoolLatent, attended: Tensor) -> Tensor:
    x = pool.proj(attended)
    if pool.mlp is not None:
        x = x + pool.mlp(pool.norm(x))
    return x[:, 0]


def _after_attention(layer: nn.Module, attended: Tensor, layer_input: Tensor) -> Tensor:
    attended = layer.norm(attended) if getattr(layer, "norm", None) is not None else attended
    if getattr(layer, "gate", None) is not None:
        attended = attended * layer.gate(layer_input).sigmoid()
    return layer.proj(attended)


def _rest_of_block(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    if type(block) is Block:
        x = x + block.ls1(attended)
        return x + block.ls2(block.mlp(block.norm2(x)))
    if type(block) in (EvaBlock, BeitBlock):
        x = x + (attended if block.gamma_1 is None else block.gamma_1 * attended)
        changed = block.mlp(block.norm2(x))
        return x + (changed if block.gamma_2 is None else block.gamma_2 * changed)
    raise BackboneError(f"Class maps are not known for blocks of type {type(block).__name__}.")
