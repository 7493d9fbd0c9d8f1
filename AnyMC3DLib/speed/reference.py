"""What a user would write today: timm and peft, one model for each task, a loop over volumes."""

from __future__ import annotations

import math

import timm
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..lora import Adapter
from .setting import values_of


def check_peft() -> None:
    """Raise InputError unless peft is installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise InputError("The comparison with timm and peft needs peft: pip install 'anymc3d[bench]'.") from error


class Reference(nn.Module):
    """A LoRA backbone, attention pooling of the slices' class tokens, and a linear head."""

    def __init__(self, model: str, *, classes: int = 2) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        # Weights of the same seed are the same only for a model of the same native size.
        backbone = timm.create_model(model, pretrained=False, num_classes=0, dynamic_img_size=True)
        config = LoraConfig(r=8, lora_alpha=16, target_modules=r".*(qkv|attn\.proj|patch_embed\.proj)$")
        self.mean, self.std = backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"]
        self.backbone = get_peft_model(backbone, config)
        self.query = nn.Parameter(torch.zeros(backbone.num_features))
        self.head = nn.Linear(backbone.num_features, classes)

    def forward(self, volume: Tensor) -> Tensor:
        """Slices [S, 1, H, W] in [0, 1] to logits [classes]."""
        slices = (volume - self.mean[0]) / self.std[0]
        tokens = self.backbone.forward_features(slices.repeat(1, 3, 1, 1))[:, 0]
        weights = (tokens @ self.query / math.sqrt(tokens.shape[1])).softmax(0)
        return self.head(weights @ tokens)

    @torch.no_grad()
    def fill(self, view: str, adapter: Adapter, seed: int = 0) -> Reference:
        """Give it the values that `setting.filled` gives a plugin with this adapter."""
        inner = self.backbone.base_model.model
        for name in adapter.layers:
            layer, pair = inner.get_submodule(name), adapter.pair(name)
            key = f"{seed}.adapters.{view}.pairs.{name.replace('.', '/')}"
            layer.lora_A["default"].weight.copy_(values_of(f"{key}.A", pair.A.shape))
            B = layer.lora_B["default"].weight
            B.copy_(values_of(f"{key}.B", pair.B.shape).reshape(B.shape))
        self.query.copy_(values_of(f"{seed}.fusions.{view}.query", self.query.shape))
        self.head.weight.copy_(values_of(f"{seed}.head.weight", self.head.weight.shape))
        self.head.bias.copy_(values_of(f"{seed}.head.bias", self.head.bias.shape))
        return self
