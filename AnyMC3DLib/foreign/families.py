"""What the kinds of models are called, the same whatever file their weights came from."""

from __future__ import annotations

from collections.abc import Callable

# Parts of timm's names and of the tags behind them; the first that fits. A tag says how a network was trained.
FAMILIES: tuple[tuple[Callable[[str, str], bool], str], ...] = (
    (lambda name, tag: name.startswith("convnext") and tag.startswith("dinov3"), "DINOv3 ConvNeXt"),
    (lambda name, _: "dinov2" in name, "DINOv2"),
    (lambda name, _: "dinov3" in name, "DINOv3"),
    (lambda name, _: "siglip" in name, "SigLIP"),
    (lambda name, _: name.startswith("eva"), "EVA"),
    (lambda name, tag: "clip" in name.split("_") or tag.startswith(("clip", "openai")), "CLIP"),
    (lambda name, _: name.startswith("sam2"), "SAM 2"),
    (lambda name, _: name.startswith("samvit"), "SAM"),
    (lambda name, _: name.startswith("davit") and name.endswith("_fl"), "Florence-2"),
    (lambda name, _: name.startswith("davit"), "DaViT"),
    (lambda name, _: name.startswith("swinv2"), "Swin V2"),
    (lambda name, _: name.startswith("swin_"), "Swin"),
    (lambda name, _: name.startswith("hiera"), "Hiera"),
    (lambda name, _: name.startswith("beit"), "BEiT"),
    (lambda name, _: name.startswith("convnextv2"), "ConvNeXt V2"),
    (lambda name, _: name.startswith("convnext"), "ConvNeXt"),
    (lambda name, _: name.startswith(("resnet", "wide_resnet", "resnext")), "ResNet"),
    (lambda name, _: "efficientnet" in name, "EfficientNet"),
    (lambda name, _: name.startswith("densenet"), "DenseNet"),
    (lambda name, _: name.startswith("deit"), "DeiT"),
    (lambda name, tag: name.startswith("vit_") and tag.startswith("mae"), "MAE"),
    (lambda name, _: name.startswith("vit_"), "ViT"),
)


def family_of(name: str, tag: str = "") -> str:
    """What the model `name` of timm's, trained as `tag` says, is called; of others the first word of their name."""
    return next((family for fits, family in FAMILIES if fits(name, tag)), name.partition("_")[0])
