"""Supervision by masks: tokens, decoder, loss, and masks on the grid of the slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from networks import KINDS, backbone_of_kind, grey_slices, plugin_spec, three_views, tiny_network, write_plugin
from torch import Tensor
from volumes import HEADERS, field, in_every_order, pixel_points, rotation, straight

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.preprocessing import Slices, preprocess
from AnyMC3DLib.spec import IntensitySpec, LoRASpec, PreprocessingSpec, SliceSpec
from AnyMC3DLib.training.pixel_supervision import (
    PixelDecoder,
    encode_with_tokens,
    forward_with_tokens,
    load_decoder,
    mask_on_cells,
    mask_on_slices,
    pixel_loss,
    save_decoder,
    token_volume,
    token_width,
    tokens_of,
)
from AnyMC3DLib.volume import Volume

CENTRE = np.array([-8.0, 26.0, 11.0])
WINDOW = IntensitySpec(kind="window", windows=((0.0, 2000.0),))


# Tokens


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_backbone_gives_tokens_and_the_embedding_it_always_gives(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = tiny_network(backbone)
    slices, view = grey_slices(3, (64, 96)), network.spec.views[0]
    embedding, tokens = encode_with_tokens(network, view, slices)
    assert tokens.shape == (3, token_width(backbone), 4, 6)  # 16 pixels a token
    torch.testing.assert_close(embedding, network.encode(view, slices).embedding)
    torch.testing.assert_close(tokens, tokens_of(network, view, slices))
    network.close()


@pytest.mark.parametrize("kind", ["class token", "registers", "DINOv3", "EfficientNet", "ConvNeXt"])
def test_a_token_stands_where_its_pixels_are(kind: str) -> None:
    network = tiny_network(backbone_of_kind(kind))
    view = network.spec.views[0]
    plain = torch.full((1, 1, 96, 128), 0.5)
    spot = plain.clone()
    spot[..., 32:48, 96:112] = 1.0  # the token of row 2, column 6
    with torch.no_grad():
        change = (tokens_of(network, view, spot) - tokens_of(network, view, plain)).norm(dim=1)[0]
    assert divmod(int(change.argmax()), change.shape[1]) == (2, 6)
    network.close()


@pytest.mark.parametrize("kind", ["class token", "DINOv3", "ResNet", "EfficientNet"])
def test_the_mask_reaches_the_adapters_and_leaves_the_backbone_alone(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = tiny_network(backbone)
    decoder = PixelDecoder(token_width(backbone), channels=8)
    tokens = tokens_of(network, network.spec.views[0], grey_slices(4))
    logits = decoder(token_volume(tokens))
    assert logits.shape == (1, 1, 4, 4, 6)
    mask = torch.zeros_like(logits)
    mask[0, 0, 1, 1, 2] = 1
    pixel_loss(logits, mask).sum().backward()
    reached = [name for name, p in network.adapters.named_parameters() if p.grad is not None and p.grad.norm() > 0]
    assert any(name.endswith(".A") for name in reached)
    assert any(name.endswith(".B") for name in reached)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in decoder.parameters())
    assert all(p.grad is None for p in backbone.model.parameters())
    network.close()


def test_the_gradient_of_a_mask_is_that_of_finite_differences() -> None:
    backbone = backbone_of_kind("class token")
    network = tiny_network(backbone)
    torch.manual_seed(0)
    decoder = PixelDecoder(token_width(backbone), channels=8, finer=1)
    slices, view = grey_slices(2), network.spec.views[0]
    mask = torch.zeros(1, 1, 2, 2, 3)
    mask[..., 1, 1] = 1
    name, parameter = next((n, p) for n, p in network.adapters.named_parameters() if n.endswith(".B"))

    def loss() -> Tensor:
        return pixel_loss(decoder(token_volume(tokens_of(network, view, slices))), mask).sum()

    loss().backward()
    direction = parameter.grad / parameter.grad.norm()
    step, start = 3e-3, parameter.detach().clone()
    found = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.copy_(start + sign * step * direction)
            found.append(float(loss()))
    slope = (found[0] - found[1]) / (2 * step)
    assert slope == pytest.approx(float(parameter.grad.norm()), rel=0.05), name
    network.close()


def test_adapters_behind_the_tokens_are_refused_since_masks_could_teach_them_nothing() -> None:
    backbone = backbone_of_kind("EfficientNet")
    network = tiny_network(backbone, lora=LoRASpec(rank=2, targets=("pointwise",), last_blocks=1))
    view = network.spec.views[0]
    with pytest.raises(InputError, match="behind the tokens"):
        tokens_of(network, view, grey_slices(2))
    with torch.no_grad():
        assert not tokens_of(network, view, grey_slices(2)).requires_grad
    network.close()


def test_without_adapters_tokens_are_those_of_the_frozen_backbone() -> None:
    network = tiny_network(backbone_of_kind("class token"), lora=LoRASpec(rank=0))
    assert not tokens_of(network, network.spec.views[0], grey_slices(2)).requires_grad


@pytest.mark.parametrize("kind", ["class token", "EfficientNet"])
def test_studies_of_any_number_of_slices_and_views_go_together(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = tiny_network(backbone, views=three_views(backbone))
    studies = [
        {v.name: grey_slices(count + n, seed=10 * count + n) for n, v in enumerate(network.spec.views)}
        for count in (3, 1, 5)
    ]
    with torch.no_grad():
        fused, tokens = forward_with_tokens(network, studies)
        torch.testing.assert_close(fused.logits, network(studies).logits)
        for study, found in zip(studies, tokens, strict=True):
            for view in network.spec.views:
                alone = tokens_of(network, view, study[view.name])
                torch.testing.assert_close(found[view.name], alone, rtol=1e-4, atol=1e-5)
    network.close()


@pytest.mark.parametrize("kind", ["class token", "EfficientNet"])
def test_slices_in_small_batches_give_the_adapters_the_gradient_of_all_at_once(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = tiny_network(backbone)
    view, slices = network.spec.views[0], grey_slices(5)
    torch.manual_seed(0)
    decoder = PixelDecoder(token_width(backbone), channels=8)
    mask = torch.zeros(1, 1, 5, 4, 6)
    mask[0, 0, 2, 1:3, 2] = 1

    def loss(embedding: Tensor, tokens: Tensor) -> Tensor:
        fused = network.fuse({view.name: embedding[None]})
        return fused.logits.sum() + 3 * pixel_loss(decoder(token_volume(tokens)), mask).sum()

    loss(*encode_with_tokens(network, view, slices)).backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad(set_to_none=True)
    # As under little memory: all without gradients, then again in batches that are given those of what they gave.
    with torch.no_grad():
        parts = [encode_with_tokens(network, view, part) for part in slices.split(2)]
    leaves = [torch.cat(outputs).requires_grad_() for outputs in zip(*parts, strict=True)]
    loss(*leaves).backward()
    pulls = zip(slices.split(2), *(leaf.grad.split(2) for leaf in leaves), strict=True)
    for part, *gradients in pulls:
        torch.autograd.backward(encode_with_tokens(network, view, part), gradients)
    for name, parameter in network.named_parameters():
        difference = (parameter.grad - expected[name]).norm()
        assert difference <= 1e-4 * max(expected[name].norm(), 1e-2), name
    network.close()


# The decoder


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> Tensor:
    """A ball of ones [1, 1, S, y, x] in cells."""
    grid = np.indices(shape)
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
    return torch.from_numpy((distance <= radius).astype(np.float32))[None, None]


@pytest.mark.parametrize("finer", [1, 2])
def test_the_decoder_learns_a_ball_in_a_few_steps_and_finds_another(finer: int) -> None:
    torch.manual_seed(0)
    size = (8, 8, 8)
    grid = (8, 8 * finer, 8 * finer)
    code = torch.randn(16)

    def example(centre: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
        """Tokens that carry a code within the ball, and noise; and the ball on the decoder's grid."""
        inside = ball(size, centre, 2.5)
        tokens = torch.randn(1, 16, *size) + 2 * inside * code[None, :, None, None, None]
        return tokens, torch.nn.functional.interpolate(inside, size=grid)

    examples = [example(tuple(torch.randint(2, 6, (3,)).tolist())) for _ in range(4)]
    decoder = PixelDecoder(16, channels=16, finer=finer)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.02)
    losses = []
    for step in range(32):
        tokens, mask = examples[step % 4]
        optimiser.zero_grad()
        loss = pixel_loss(decoder(tokens), mask).sum()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    tokens, mask = example((3, 5, 4))
    found = decoder(tokens).detach() > 0
    truth = mask > 0.5
    assert float((found & truth).sum() / (found | truth).sum()) > 0.7


@pytest.mark.parametrize("slices", [1, 2, 7])
def test_the_decoder_takes_any_number_of_slices_and_any_precision(slices: int) -> None:
    decoder = PixelDecoder(24, channels=8, finer=3)
    tokens = torch.randn(2, 24, slices, 3, 5)
    logits = decoder(tokens.bfloat16())
    assert logits.shape == (2, 1, slices, 9, 15)
    assert logits.dtype == torch.float32
    each = torch.cat([decoder(tokens[n : n + 1].bfloat16()) for n in (0, 1)])
    torch.testing.assert_close(each, logits)


def test_the_decoder_is_light_and_no_part_of_the_plugin() -> None:
    for width in (384, 768, 1024, 1536):
        assert sum(p.numel() for p in PixelDecoder(width).parameters()) < 200_000
    backbone = backbone_of_kind("class token")
    network = PluginNetwork(plugin_spec(backbone), backbone)
    before = set(network.state_dict())
    decoder = PixelDecoder(token_width(backbone))
    decoder(token_volume(tokens_of(network, network.spec.views[0], grey_slices(2))))
    assert set(network.state_dict()) == before
    network.close()


def test_a_decoder_that_is_kept_comes_back_to_the_bit(tmp_path: Path) -> None:
    decoder, tokens = PixelDecoder(24, channels=16, finer=3), torch.randn(1, 24, 2, 3, 3)
    save_decoder(tmp_path / "decoder.safetensors", decoder)
    torch.testing.assert_close(load_decoder(tmp_path / "decoder.safetensors")(tokens), decoder(tokens), rtol=0, atol=0)


@pytest.mark.parametrize("content", [b"", b"no tensors", None], ids=["empty", "text", "a plugin"])
def test_a_file_that_is_no_decoder_is_refused(content: bytes | None, tmp_path: Path) -> None:
    place = tmp_path / "decoder.safetensors"
    if content is None:
        write_plugin(place, backbone_of_kind("class token"))
    else:
        place.write_bytes(content)
    with pytest.raises(InputError, match=r"'decoder.safetensors' is not a pixel decoder"):
        load_decoder(place)


# The loss


def example_of_loss(count: int = 3, *, soft: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(count, 1, 3, 4, 5, generator=generator, dtype=torch.float64)
    share = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), share if soft else (share > 0.7).double()


def test_dice_and_cross_entropy_are_monais() -> None:
    logits, mask = example_of_loss()
    found = pixel_loss(logits, mask)
    assert found.shape == (3,)
    for number in range(3):
        oracle = DiceCELoss(sigmoid=True)(logits[number : number + 1], mask[number : number + 1])
        torch.testing.assert_close(found[number], oracle)
    expected = 3 * DiceCELoss(sigmoid=True)(logits, mask)
    torch.testing.assert_close(found.sum(), expected)
    pulls = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found.sum(), expected)]
    torch.testing.assert_close(*pulls)


def test_the_loss_is_the_formula_in_float64_and_soft_shares_are_met_not_rounded() -> None:
    logits, share = example_of_loss(soft=True)
    p, t = logits.detach().sigmoid().numpy(), share.numpy()
    each = []
    for a, b in zip(p, t, strict=True):
        cross_entropy = -(b * np.log(a) + (1 - b) * np.log(1 - a)).mean()
        overlap = (a.sum() + b.sum() - np.abs(a - b).sum()) / 2
        each.append(cross_entropy + 1 - (2 * overlap + 1e-5) / (a.sum() + b.sum() + 1e-5))
    np.testing.assert_allclose(pixel_loss(logits, share).detach().numpy(), each, rtol=1e-9)
    best = pixel_loss(torch.logit(share), share).sum()
    for shift in (-0.3, 0.3):
        assert best < pixel_loss(torch.logit(share) + shift, share).sum()


def test_voxels_that_do_not_count_are_as_if_they_were_cut_off() -> None:
    logits, mask = example_of_loss()
    valid = torch.zeros(4, 5, dtype=torch.bool)
    valid[1:, :3] = True
    found = pixel_loss(logits, mask, valid=valid)
    torch.testing.assert_close(found, pixel_loss(logits[..., 1:, :3], mask[..., 1:, :3]))
    (pulls,) = torch.autograd.grad(found.sum(), logits)
    assert (pulls[..., ~valid] == 0).all()
    assert (pulls[..., valid] != 0).all()


def test_a_case_without_a_valid_voxel_has_no_loss() -> None:
    logits, mask = example_of_loss()
    valid = torch.ones(3, 1, 1, 1, 1, dtype=torch.bool)
    valid[1] = False
    found = pixel_loss(logits, mask, valid=valid)
    assert float(found[1].detach()) == 0
    (pulls,) = torch.autograd.grad(found.sum(), logits)
    assert torch.isfinite(pulls).all()
    assert (pulls[1] == 0).all()


def test_an_empty_mask_teaches_that_there_is_no_lesion_at_extreme_logits_too() -> None:
    for size in (0.0, 80.0, -80.0):
        logits = torch.full((1, 1, 2, 3, 3), size, requires_grad=True)
        loss = pixel_loss(logits, torch.zeros_like(logits)).sum()
        (pulls,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(pulls).all()
        assert (pulls >= 0).all()


@pytest.mark.parametrize("parts", [[1, 1, 1], [2, 1]], ids=str)
def test_cases_in_parts_give_the_gradient_of_the_whole(parts: list[int]) -> None:
    logits, mask = example_of_loss()
    (expected,) = torch.autograd.grad(pixel_loss(logits, mask).sum() / 3, logits)
    total = torch.zeros_like(expected)
    for rows in torch.arange(3).split(parts):
        total += torch.autograd.grad(pixel_loss(logits[rows], mask[rows]).sum() / 3, logits)[0]
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-12)


# Masks on slices


def cut(volume: Volume, **fields: object) -> Slices:
    return preprocess(volume, PreprocessingSpec(**{"intensity": WINDOW, "size": (48, 64), **fields}))


def image(header: str = "oblique", *, spacing: tuple[float, float, float] = (0.9, 1.3, 2.2)) -> Volume:
    """An image that holds its own R coordinate, about CENTRE."""
    affine = HEADERS[header] @ np.linalg.inv(straight()) @ straight(spacing, (0, 0, 0))
    grid = (28, 40, 52)
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(grid[::-1]) - 1) / 2)
    return field(affine, lambda points: 500 + points[..., 0], grid)


def ball_mask(affine: npt.NDArray[np.float64], grid: tuple[int, int, int], radius: float) -> Volume:
    """A ball about CENTRE, label 3, on a grid whose middle lies there."""
    affine = affine.copy()
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(grid[::-1]) - 1) / 2)
    inside = field(affine, lambda points: np.linalg.norm(points - CENTRE, axis=-1) <= radius, grid)
    return Volume(3 * inside.array.astype(np.uint8), affine, name="the mask")


def in_lesion(slices: Slices, radius: float) -> npt.NDArray[np.bool_]:
    shape = (len(slices.array), *slices.array.shape[2:])
    return np.linalg.norm(pixel_points(slices.ijk_to_ras, shape) - CENTRE, axis=-1) <= radius


def volume_of(share: npt.NDArray[np.float32], slices: Slices) -> float:
    """Cubic millimetres of lesion."""
    return float(share.sum(dtype=np.float64) * abs(np.linalg.det(slices.ijk_to_ras[:3, :3])))


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("header", HEADERS)
def test_a_ball_on_another_grid_is_found_where_it_lies_in_an_oblique_image(header: str, axis: str) -> None:
    slices = cut(image(header, spacing=(1.1, 1.0, 1.3)), axis=axis, spacing_mm=1.0)
    mask = ball_mask(rotation(13, -31, 8) @ straight((0.7, 0.8, 0.9)), (26, 27, 32), 10.0)
    share = mask_on_slices(mask, slices)
    assert share.shape == (len(slices.array), 48, 64)
    assert share.dtype == np.float32
    found, truth = share >= 0.5, in_lesion(slices, 10.0)
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    assert volume_of(share, slices) == pytest.approx((mask.array > 0).sum() * np.prod(mask.spacing), rel=0.01)
    assert share.max() == 1.0
    assert share.min() == 0.0


def test_a_mask_on_the_images_own_grid_goes_the_way_of_the_image() -> None:
    volume = image("gantry tilt")
    rng = np.random.default_rng(0)
    labels = (rng.random(volume.grid) < 0.2).astype(np.int16)
    slices = preprocess(
        volume, PreprocessingSpec(size=None, multiple_of=1, spacing_mm=None, intensity=WINDOW, axis="axial")
    )
    assert min(volume.spacing) == pytest.approx(0.9)
    share = mask_on_slices(Volume(labels, volume.ijk_to_ras), slices)
    like = Volume(1000.0 * labels, volume.ijk_to_ras)
    same = preprocess(
        like, PreprocessingSpec(size=None, intensity=IntensitySpec(kind="window", windows=((500, 1000),)))
    )
    assert share.shape == (len(same.array), *same.array.shape[2:])
    # Rows are resampled from 1.3 to 0.9 mm, which reads the nearest voxel in a mask and two in an image.
    clear = (same.array[:, 0] < 0.3) | (same.array[:, 0] > 0.7)
    assert clear.mean() > 0.5
    np.testing.assert_array_equal((share > 0.5)[clear], (same.array[:, 0] > 0.5)[clear])


@pytest.mark.parametrize("header", ["straight", "oblique", "oblique gantry tilt"])
@pytest.mark.parametrize("policy", [SliceSpec(), SliceSpec(policy="at_most", count=3)], ids=["all", "three slices"])
def test_a_lesion_of_two_small_voxels_keeps_its_share_wherever_it_lies(header: str, policy: SliceSpec) -> None:
    slices = cut(image(header), size=(32, 32), slices=policy)
    rng = np.random.default_rng(0)
    affine = rotation(5, 40, -20) @ straight((0.6, 0.6, 0.6))
    for _ in range(10):
        array = np.zeros((30, 30, 30), dtype=np.uint8)
        k, j, i = rng.integers(5, 25, 3)
        array[k, j, i : i + 2] = 1
        middle = affine.copy()
        middle[:3, 3] = CENTRE - affine[:3, :3] @ [14.5, 14.5, 14.5]
        share = mask_on_slices(Volume(array, middle), slices)
        assert 0.4 * 2 * 0.6**3 < volume_of(share, slices) < 2 * 2 * 0.6**3
        points = pixel_points(slices.ijk_to_ras, share.shape)[share > 0]
        place = middle[:3, :3] @ [i + 0.5, j, k] + middle[:3, 3]
        reach = 0.6 + np.linalg.norm(slices.ijk_to_ras[:3, :3], axis=0).sum() / 2
        assert np.linalg.norm(points - place, axis=1).max() < reach
        cells = mask_on_cells(torch.from_numpy(share), (2, 2))
        assert float(cells.max()) > 0
        assert float(cells.sum()) * 256 == pytest.approx(float(share.sum()), rel=1e-4)


def test_the_mask_stays_the_same_however_it_is_stored() -> None:
    slices = cut(image("oblique"))
    mask = ball_mask(straight((1.3, 2.0, 1.7)), (9, 8, 11), 6.0)
    expected = mask_on_slices(mask, slices)
    assert expected.max() > 0
    for stored in in_every_order(mask):
        np.testing.assert_allclose(mask_on_slices(stored, slices), expected, atol=0.1)


def test_a_mask_that_does_not_touch_the_slices_or_is_empty_is_empty() -> None:
    slices = cut(image())
    mask = ball_mask(straight((1.0, 1.0, 1.0)), (9, 9, 9), 3.0)
    far = mask.ijk_to_ras.copy()
    far[:3, 3] += 1000
    assert not mask_on_slices(Volume(mask.array, far), slices).any()
    assert not mask_on_slices(Volume(np.zeros_like(mask.array), mask.ijk_to_ras), slices).any()


def test_a_mask_covers_a_single_slice_of_a_picture() -> None:
    flat = Volume(np.arange(40 * 52, dtype=np.float32).reshape(1, 40, 52), straight((1.0, 1.0, 1.0)))
    labels = np.zeros((1, 40, 52), dtype=np.uint8)
    labels[0, 4:9, 6:16] = 1
    slices = preprocess(flat, PreprocessingSpec(size=(40, 52), intensity=WINDOW))
    share = mask_on_slices(Volume(labels, flat.ijk_to_ras), slices)
    assert share.sum() == 50
    assert set(np.unique(share)) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 5, 5, 3), np.uint8), "colour picture"),
        (np.full((3, 5, 5), np.nan, np.float32), "not finite"),
    ],
)
def test_a_mask_that_is_none_is_refused(array: npt.NDArray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        mask_on_slices(Volume(array, np.eye(4), name="the mask"), cut(image()))


def test_a_cell_holds_its_pixels_mean_and_no_pixel_is_lost_on_an_uneven_grid() -> None:
    mask = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    expected = mask.unfold(1, 8, 8).unfold(2, 8, 8).mean(dim=(3, 4))
    torch.testing.assert_close(mask_on_cells(mask, (4, 6)), expected)
    for row, column in ((0, 0), (17, 23), (31, 47)):
        spot = torch.zeros(1, 32, 48)
        spot[0, row, column] = 1
        assert float(mask_on_cells(spot, (5, 7)).max()) > 0


def test_soft_dice_is_the_form_that_is_least_at_the_share_itself() -> None:
    share = torch.full((1, 1, 1, 2, 2), 0.2)
    plain, soft = DiceLoss(), DiceLoss(soft_label=True)
    assert float(soft(share, share)) < 1e-4 < float(plain(share, share))
