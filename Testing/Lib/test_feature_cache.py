"""Embeddings of a frozen backbone are computed once for the same slices and network, and never mixed up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import plugin_spec, tiny_backbone

from AnyMC3DLib.benchmark.raptor import RaptorNetwork
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.training.embedding import Embedder, Embeddings
from AnyMC3DLib.training.feature_cache import ENDING, FeatureCache, key_of
from AnyMC3DLib.training.slices import CutCases

SIZE = (32, 48)


def cases(count: int = 3) -> CutCases:
    """Cases of 2, 3, 4 ... random slices."""
    rng = np.random.default_rng(0)
    stacks = [{"axial": rng.random((2 + n, 1, *SIZE)).astype(np.float16)} for n in range(count)]
    return CutCases([str(n) for n in range(count)], stacks, np.zeros(count, dtype=np.int64))


def network(name: str = "test_vit", *, seed: int = 0) -> PluginNetwork:
    """A fresh plugin on a small backbone."""
    backbone = tiny_backbone(name, seed=seed)
    return PluginNetwork(plugin_spec(backbone), backbone)


def embedded(cache: FeatureCache | None, found: CutCases, net: PluginNetwork) -> tuple[list[Embeddings], int]:
    """The embeddings, and how many cases passed the backbone for them."""
    passed: list[int] = []
    embedder = Embedder(net, check=lambda: None, report=lambda _, done, __: passed.append(done), features=cache)
    return embedder.embed(found, step="Embedding", frozen=True), max(passed, default=0)


def test_what_was_embedded_once_is_not_embedded_again_in_memory_or_from_disk(tmp_path: Path) -> None:
    found, net = cases(), network()
    expected, passed = embedded(None, found, net)
    assert passed == 3
    cache = FeatureCache(tmp_path)
    for each, count in ((cache, 3), (cache, 0), (FeatureCache(tmp_path), 0)):
        got, passed = embedded(each, found, net)
        assert passed == count
        for one, other in zip(got, expected, strict=True):
            assert torch.equal(one["axial"], other["axial"])


def test_cases_that_are_new_are_embedded_alone(tmp_path: Path) -> None:
    net = network()
    embedded(FeatureCache(tmp_path), cases(2), net)
    got, passed = embedded(FeatureCache(tmp_path), cases(4), net)
    assert passed == 2
    assert [len(one["axial"]) for one in got] == [2, 3, 4, 5]


def test_only_what_others_embedded_counts_as_reused(tmp_path: Path) -> None:
    found, net = cases(), network()
    first = FeatureCache(tmp_path)
    embedded(first, found, net)
    embedded(first, found, net)
    assert first.reused == 0
    second = FeatureCache(tmp_path)
    embedded(second, found, net)
    assert second.reused == 1


def test_a_key_is_another_for_whatever_changes_the_embeddings() -> None:
    (stack,) = cases(1).stacks
    net = network()
    changed = {"axial": stack["axial"].copy()}
    changed["axial"][0, 0, 0, 0] += 0.5
    (view,) = net.spec.views
    cut = dataclasses.replace(view.preprocessing, mean=(0.1, 0.2, 0.3))
    other = dataclasses.replace(net.spec, views=(dataclasses.replace(view, preprocessing=cut),))
    backbone = tiny_backbone("test_resnet")
    raptors = [RaptorNetwork(plugin_spec(backbone), backbone, seed=seed) for seed in (0, 1)]
    keys = [
        key_of(net, stack),
        key_of(net, changed),
        key_of(net, {"axial": stack["axial"].astype(np.float32)}),
        key_of(PluginNetwork(other, net.backbone), stack),
        key_of(network(seed=1), stack),
        key_of(PluginNetwork(plugin_spec(backbone), backbone), stack),
        *(key_of(raptor, stack) for raptor in raptors),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(network(), stack) == keys[0]


def test_what_was_trained_before_the_embeddings_is_never_taken_from_the_cache(tmp_path: Path) -> None:
    found, net = cases(), network()
    cache = FeatureCache(tmp_path)
    embedded(cache, found, net)
    with torch.no_grad():
        for parameter in net.adapters.parameters():
            parameter.add_(0.5)
    embedder = Embedder(net, check=lambda: None, report=lambda *_: None, features=cache)
    frozen = embedder.embed(found, step="Embedding", frozen=True)[0]["axial"]
    tuned = embedder.embed(found, step="Embedding")[0]["axial"]
    assert not torch.allclose(frozen, tuned)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, None])
def test_a_damaged_shard_is_embedded_again(damage: bytes | None, tmp_path: Path) -> None:
    found, net = cases(), network()
    embedded(FeatureCache(tmp_path), found, net)
    (shard,) = tmp_path.glob(f"*{ENDING}")
    shard.write_bytes(shard.read_bytes()[:-100] if damage is None else damage)
    _, passed = embedded(FeatureCache(tmp_path), found, net)
    assert passed == 3


def test_memory_is_bounded_and_what_does_not_fit_comes_from_disk(tmp_path: Path) -> None:
    found, net = cases(6), network()
    cache = FeatureCache(tmp_path, max_bytes=2000)
    expected, _ = embedded(cache, found, net)
    assert sum(t.nbytes for views in cache._held.values() for t in views.values()) <= 2000
    got, passed = embedded(cache, found, net)
    assert passed == 0
    assert all(torch.equal(a["axial"], b["axial"]) for a, b in zip(got, expected, strict=True))
