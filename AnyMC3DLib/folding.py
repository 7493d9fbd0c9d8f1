"""A grey slice through the first layer of an RGB backbone without tripling it in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.conv2d_same import conv2d_same
from torch import Tensor, nn


class FoldingConv2d(nn.Conv2d):
    """A first convolution that takes 3 channels, or 1 grey channel that stands for three equal ones.

    The grey channel is normalised with the first channel's mean and std. Channel c of the tripled, normalised slice
    is then scale_c x + shift_c, so the weights' channels add up to one, and the shifts to a bias. That is exact
    unless zeros are padded after a normalisation that differs between channels: see `is_exact`.
    """

    def __init__(self, conv: nn.Conv2d, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        nn.Module.__init__(self)
        names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode output_padding"
        for name in names.split():
            setattr(self, name, getattr(conv, name))
        self.train(conv.training)
        self.same = isinstance(conv, Conv2dSame)
        self.weight, self.bias = conv.weight, conv.bias
        scale = [std[0] / s for s in std]
        shift = [(mean[0] - m) / s for m, s in zip(mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.has_shift = any(value != 0 for value in shift)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, x, weight=self.weight, bias=self.bias)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight [out, 3, kh, kw] for three channels to [out, 1, kh, kw] for a grey one, and its bias."""
        folded = (weight * self.scale.to(weight.dtype)[:, None, None]).sum(dim=1, keepdim=True)
        if self.has_shift:
            added = weight.sum(dim=(2, 3)) @ self.shift.to(weight.dtype)
            bias = added if bias is None else bias + added
        return folded, bias


def is_exact(conv: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    """Whether `FoldingConv2d` gives the tripled slice's output for this layer."""
    if type(conv) not in (nn.Conv2d, Conv2dSame) or conv.in_channels != 3 or conv.groups != 1:
        return False
    if len(set(mean)) == 1 and len(set(std)) == 1:
        return conv.padding_mode == "zeros"
    return type(conv) is nn.Conv2d and conv.padding in ((0, 0), 0, "valid")


def convolve(conv: nn.Conv2d, x: Tensor, *, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`conv` applied to x with other weights, those of a low-rank pair for instance."""
    if isinstance(conv, FoldingConv2d) and x.shape[1] == 1:
        weight, bias = conv.fold(weight, bias)
    if isinstance(conv, Conv2dSame) or getattr(conv, "same", False):
        return conv2d_same(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
