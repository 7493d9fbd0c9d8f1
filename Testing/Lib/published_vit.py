"""Vision transformers as their authors published them, written out over tensors by the names of their files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def random_state(shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> State:
    """Random tensors of these shapes, none of which is close to what an untrained network has."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    # Around 1, or little of the attention would reach the tokens.
    scales = [name for name in state if name.endswith((".gamma", "norm.weight", "norm1.weight", "norm2.weight"))]
    return {**state, **{name: state[name] + 1 for name in scales}}


def block_shapes(start: str, width: int, hidden: int, *, scales: bool) -> dict[str, tuple[int, ...]]:
    """The shapes of one block: norms, attention, layer scales; without its MLP."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{start}.attn.qkv.weight": (3 * width, width),
        f"{start}.attn.qkv.bias": (3 * width,),
        f"{start}.attn.proj.weight": (width, width),
        f"{start}.attn.proj.bias": (width,),
    }
    for norm in ("norm1", "norm2"):
        shapes |= {f"{start}.{norm}.weight": (width,), f"{start}.{norm}.bias": (width,)}
    if scales:
        shapes |= {f"{start}.ls{k}.gamma": (width,) for k in (1, 2)}
    return shapes


def mlp_shapes(start: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the usual MLP of two layers."""
    return {
        f"{start}.mlp.fc1.weight": (hidden, width),
        f"{start}.mlp.fc1.bias": (hidden,),
        f"{start}.mlp.fc2.weight": (width, hidden),
        f"{start}.mlp.fc2.bias": (width,),
    }


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """A linear layer by its name."""
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    """A layer norm by its name."""
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def mlp(state: State, start: str, x: Tensor) -> Tensor:
    """The MLP under whichever of the published names it has."""
    if f"{start}.w12.weight" in state:
        gate, value = linear(state, f"{start}.w12", x).chunk(2, dim=-1)
        return linear(state, f"{start}.w3", F.silu(gate) * value)
    if f"{start}.w1.weight" in state:
        return linear(state, f"{start}.w3", F.silu(linear(state, f"{start}.w1", x)) * linear(state, f"{start}.w2", x))
    return linear(state, f"{start}.fc2", F.gelu(linear(state, f"{start}.fc1", x)))


def block(
    state: State, start: str, x: Tensor, *, heads: int, eps: float, rotate: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Tensor, Tensor]:
    """Tokens [B, N, D] after a block, and its attention [B, heads, N, N]."""
    batch, count, width = x.shape
    qkv = linear(state, f"{start}.attn.qkv", norm(state, f"{start}.norm1", x, eps))
    query, key, value = qkv.reshape(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    attention = (rotate(query) @ rotate(key).transpose(2, 3) / math.sqrt(width // heads)).softmax(dim=-1)
    attended = linear(state, f"{start}.attn.proj", (attention @ value).transpose(1, 2).reshape(x.shape))
    x = x + attended * state.get(f"{start}.ls1.gamma", torch.ones(width))
    changed = mlp(state, f"{start}.mlp", norm(state, f"{start}.norm2", x, eps))
    return x + changed * state.get(f"{start}.ls2.gamma", torch.ones(width)), attention


def patches(state: State, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Patch tokens [B, h w, D] and the grid (h, w)."""
    size = state["patch_embed.proj.weight"].shape[2]
    y = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=size)
    return y.flatten(2).transpose(1, 2), (y.shape[2], y.shape[3])


def positions(stored: Tensor, grid: tuple[int, int], *, prefix: int, offset: float, antialias: bool) -> Tensor:
    """Stored positions [1, prefix + n n, D] at another grid, as DINO's and DINOv2's code resamples them."""
    side = math.isqrt(stored.shape[1] - prefix)
    if grid == (side, side):
        return stored
    table = stored[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if offset:
        how = {"scale_factor": tuple((n + offset) / side for n in grid)}
    else:
        how = {"size": grid}
    table = F.interpolate(table, mode="bicubic", antialias=antialias, **how)
    return torch.cat([stored[:, :prefix], table.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)], dim=1)
