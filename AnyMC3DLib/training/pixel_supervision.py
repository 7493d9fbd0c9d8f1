"""Supervision by masks: the patch tokens of a study's slices, as one token volume, tell where the lesion lies.

A light 3D decoder turns the tokens into voxel logits at the token grid or a little finer, and Dice and cross-entropy
against the mask reach the adapters through the tokens. The decoder serves training alone.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..activation import kept, last_but_one_stage, layout_of, map_width
from ..backbone import Backbone
from ..errors import InputError
from ..files import write_bytes
from ..geometry import Affine, index_bounds
from ..model import Fused, PluginNetwork, padded
from ..preprocessing import Slices
from ..spec import ViewSpec
from ..volume import Volume

METADATA_KEY = "pixel_decoder"
GROUPS = 8
# The share of voxels that a fresh decoder takes for lesion: near what masks hold, so that it need not unlearn a half.
PRIOR = 0.05
# The logit of a voxel that does not count: its probability is 0, and so is what it adds to Dice.
NOWHERE = -1e4


class PixelDecoder(nn.Module):
    """Token volumes [B, D, S, h, w] to voxel logits [B, 1, S, h * finer, w * finer], by three 3D convolutions.

    `width` is D, see `token_width`. Studies of different numbers of slices go one at a time, since padding would
    change what the group norms see. With 32 channels it has about 60,000 parameters and 32 for each token feature.
    """

    def __init__(self, width: int, *, channels: int = 32, finer: int = 2) -> None:
        super().__init__()
        self.finer = finer
        self.enter = _layer(width, channels, kernel=1)
        self.look = nn.Sequential(_layer(channels, channels), _layer(channels, channels))
        self.answer = nn.Conv3d(channels, 1, kernel_size=1)
        nn.init.constant_(self.answer.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of tokens of any precision, in the decoder's own."""
        x = self.enter(tokens.to(self.answer.weight.dtype))
        if self.finer > 1:
            x = F.interpolate(x, scale_factor=(1, self.finer, self.finer), mode="trilinear", align_corners=False)
        return self.answer(self.look(x))


def save_decoder(path: str | Path, decoder: PixelDecoder) -> None:
    """Write the decoder to a safetensors file of its own, atomically."""
    shape = {"width": decoder.enter[0].in_channels, "channels": decoder.answer.in_channels, "finer": decoder.finer}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in decoder.state_dict().items()}
    write_bytes(path, save(tensors, metadata={METADATA_KEY: json.dumps(shape)}))


def load_decoder(path: str | Path) -> PixelDecoder:
    """The decoder that `save_decoder` wrote, on the CPU; raises InputError if the file is not one or is damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            decoder = PixelDecoder(**json.loads((file.metadata() or {})[METADATA_KEY]))
            decoder.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"'{Path(path).name}' is not a pixel decoder, or it is damaged: train it again.") from error
    return decoder


def _layer(width: int, channels: int, *, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv3d(width, channels, kernel_size=kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, channels), nn.GELU())


def pixel_loss(logits: Tensor, mask: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Dice and cross-entropy of each case [B], added; to be summed and divided by the number of cases with a mask.

    Logits and mask are [B, 1, S, y, x], the mask each voxel's share of lesion in [0, 1], for which Dice is taken in
    its form for soft labels (arXiv 2303.16296), least where probability and share are equal. Voxels that are not
    `valid` (bool, broadcast to the logits) count in neither; a case without a valid voxel has a loss of 0.
    """
    mask = mask.to(logits.dtype)
    everywhere = torch.ones_like(logits, dtype=torch.bool)
    valid = everywhere if valid is None else valid & everywhere
    counts = valid.flatten(1).sum(dim=1)
    each = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").masked_fill(~valid, 0.0)
    cross_entropy = each.flatten(1).sum(dim=1) / counts.clamp_min(1)
    dice = DiceLoss(sigmoid=True, soft_label=True, reduction="none")
    overlap = dice(logits.masked_fill(~valid, NOWHERE), mask.masked_fill(~valid, 0.0)).flatten(1).sum(dim=1)
    return cross_entropy + overlap


def token_width(backbone: Backbone) -> int:
    """How many features a token of `tokens_of` has."""
    if backbone.kind == "transformer":
        return int(backbone.model.num_features)
    return map_width(backbone.model)


def tokens_of(network: PluginNetwork, view: ViewSpec, slices: Tensor) -> Tensor:
    """The patch tokens [S, D, h, w] of slices [S, C, H, W] in [0, 1]; see `encode_with_tokens`."""
    return encode_with_tokens(network, view, slices)[1]


def encode_with_tokens(network: PluginNetwork, view: ViewSpec, slices: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [S, D'] and patch tokens [S, D, h, w] of slices [S, C, H, W] in [0, 1], by one forward pass.

    Tokens are those of a transformer after its last norm, and of a CNN its feature map at the last but one
    resolution, where class maps are read too. Both carry gradients to the view's adapter. Raises InputError if no
    adapted layer lies before the tokens, so that masks could teach nothing.
    """
    with kept(_token_layer(network.backbone)) as outputs:
        embedding = network.encode(view, slices).embedding
    tokens = _on_grid(network.backbone, outputs[0], slices)
    if embedding.requires_grad and not tokens.requires_grad:
        raise InputError(
            f"The adapters of plugin '{network.spec.name}' lie behind the tokens that masks supervise: adapt more "
            "blocks, or leave pixel supervision out."
        )
    return embedding, tokens


def forward_with_tokens(
    network: PluginNetwork, studies: Sequence[Mapping[str, Tensor]]
) -> tuple[Fused, list[dict[str, Tensor]]]:
    """As the network's own forward pass, and besides for each study and view the patch tokens [S, D, h, w]."""
    embeddings, masks = {}, {}
    tokens: list[dict[str, Tensor]] = [{} for _ in studies]
    for view in network.spec.views:
        counts = [len(study[view.name]) for study in studies]
        together = torch.cat([study[view.name] for study in studies])
        embedded, grids = encode_with_tokens(network, view, together)
        embeddings[view.name], masks[view.name] = padded(embedded.split(counts))
        for found, part in zip(tokens, grids.split(counts), strict=True):
            found[view.name] = part
    return network.fuse(embeddings, masks), tokens


def token_volume(tokens: Tensor) -> Tensor:
    """The tokens [S, D, h, w] of one study as a volume [1, D, S, h, w], as the decoder takes it."""
    return tokens.transpose(0, 1)[None]


def _token_layer(backbone: Backbone) -> nn.Module:
    model = backbone.model
    return model.norm if backbone.kind == "transformer" else model.get_submodule(last_but_one_stage(model))


def _on_grid(backbone: Backbone, output: Tensor, slices: Tensor) -> Tensor:
    if backbone.kind == "transformer":
        grid = [n // backbone.multiple_of for n in slices.shape[2:]]
        patches = output[:, int(getattr(backbone.model, "num_prefix_tokens", 0)) :]
        return patches.transpose(1, 2).unflatten(2, grid)
    return layout_of(backbone.model, output).as_map(output)


def mask_on_slices(mask: Volume, slices: Slices) -> npt.NDArray[np.float32]:
    """The share of each pixel of `slices` that is not background in `mask` [S, H, W], in [0, 1].

    The mask has a grid of its own and counts where it covers the slices. A pixel is as thick as the slices are apart,
    and is sampled so densely that no voxel of the mask falls between two samples: a lesion of a single voxel within
    the slices leaves a share. Raises InputError for a colour picture, or values that are not finite.
    """
    if mask.is_colour:
        raise InputError(f"The mask {mask.name} is a colour picture: give a label map.")
    if mask.array.dtype.kind == "f" and not np.isfinite(mask.array).all():
        raise InputError(f"The mask {mask.name} holds values that are not finite numbers: replace them first.")
    count, _, rows, columns = slices.array.shape
    shares = np.zeros((count, rows, columns), dtype=np.float32)
    labels = (mask.array != 0).astype(np.uint8)
    if not labels.any():
        return shares
    to_mask = np.linalg.inv(mask.ijk_to_ras) @ slices.ijk_to_ras
    bounds = _touched(labels, to_mask, shares.shape)
    counts = _samples(to_mask)
    source = sitk.GetImageFromArray(labels)
    for number in range(*bounds[0]):
        corner = (bounds[2][0], bounds[1][0], number)
        size = (bounds[2][1] - bounds[2][0], bounds[1][1] - bounds[1][0], 1)
        if min(size) > 0:
            window = shares[number, slice(*bounds[1]), slice(*bounds[2])]
            window[:] = _mean_share(source, to_mask, corner=corner, size=size, counts=counts)
    return shares


def _touched(labels: npt.NDArray[np.uint8], to_mask: Affine, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and one past the last (slice, row, column) that the foreground can touch."""
    ends = []
    for axis in (2, 1, 0):
        line = np.flatnonzero(labels.any(axis=tuple(a for a in range(3) if a != axis)))
        ends.append((line[0] - 0.5, line[-1] + 0.5))
    low, high = index_bounds(np.array(list(itertools.product(*ends))), to_mask)
    first, last = np.floor(low + 0.5)[::-1], np.ceil(high + 0.5)[::-1]
    return [(max(0, int(a)), min(n, int(b))) for a, b, n in zip(first, last, shape, strict=True)]


def _samples(to_mask: Affine) -> npt.NDArray[np.int64]:
    """How many samples of a pixel along (column, row, slice) leave no voxel of the mask without one.

    Some sample lies within half a step along each axis of any point; the steps' reach along every axis of the mask,
    added up, must not exceed a voxel, for then one lies in the voxel about that point.
    """
    reach = np.abs(to_mask[:3, :3])
    counts = np.ones(3, dtype=np.int64)
    while (steps := reach / counts).sum(axis=1).max() > 1 + 1e-6:
        counts[steps[steps.sum(axis=1).argmax()].argmax()] += 1
    return counts


def _mean_share(
    source: sitk.Image, to_mask: Affine, *, corner: Sequence[int], size: Sequence[int], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The share of foreground [rows, columns] in the pixels of one slice from `corner` (column, row, slice) on."""
    to_pixels = np.diag([*(1.0 / counts), 1.0])
    to_pixels[:3, 3] = np.array(corner) + (1.0 / counts - 1) / 2
    fine = to_mask @ to_pixels
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(fine[:3, :3].ravel().tolist())
    transform.SetTranslation(fine[:3, 3].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in np.array(size) * counts])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    found = sitk.GetArrayFromImage(resampler.Execute(source))
    blocks = found.reshape(counts[2], size[1], counts[1], size[0], counts[0])
    return blocks.mean(axis=(0, 2, 4), dtype=np.float32)


def mask_on_cells(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """A mask on slices [S, H, W] as the share of each cell of a coarser grid of `shape` (y, x): [S, y, x].

    Cells cover the slices evenly, so every pixel counts: a lesion of a pixel leaves its share.
    """
    return F.adaptive_avg_pool2d(mask[:, None].float(), tuple(shape))[:, 0]
