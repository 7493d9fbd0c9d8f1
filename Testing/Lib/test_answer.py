"""When an answer is uncertain: the same to the warnings of a prediction and to the table of a cohort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import plugin_spec, tiny_backbone, view
from volumes import study

from AnyMC3DLib.answer import MemberAnswer, decide, predicted
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.prediction import is_uncertain
from AnyMC3DLib.preprocessing import preprocess
from AnyMC3DLib.spec import ClassSpec, PluginSpec, SliceSpec
from AnyMC3DLib.volume import Volume


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone("test_vit", depth=1)


# Task, each class's threshold and probability, the classes whose answer is uncertain.
ANSWERS = {
    "clear": ("binary", [0.5, 0.5], [0.2, 0.8], []),
    "just above": ("binary", [0.5, 0.5], [0.46, 0.54], ["a", "b"]),
    "just below": ("binary", [0.5, 0.5], [0.54, 0.46], ["a", "b"]),
    "at a threshold of its own": ("binary", [0.5, 0.2], [0.83, 0.17], ["a", "b"]),
    "at the negative's, which does not count": ("binary", [0.8, 0.5], [0.8, 0.2], []),
    "well above": ("multiclass", [0.5] * 3, [0.1, 0.8, 0.1], []),
    "the best at its threshold": ("multiclass", [0.5] * 3, [0.03, 0.52, 0.45], ["b"]),
    "none reaches its threshold": ("multiclass", [0.9] * 3, [0.2, 0.5, 0.3], ["b"]),
    "another at its threshold": ("multiclass", [0.1, 0.5, 0.5], [0.12, 0.86, 0.02], []),
    "each for itself": ("multilabel", [0.5, 0.1, 0.9], [0.53, 0.13, 0.5], ["a", "b"]),
    "none": ("multilabel", [0.5] * 3, [0.1, 0.2, 0.9], []),
}


def case(backbone: Backbone, name: str) -> tuple[PluginSpec, dict[str, float], list[str]]:
    task, thresholds, probabilities, expected = ANSWERS[name]
    classes = tuple(ClassSpec(name=n, threshold=t) for n, t in zip("abc", thresholds, strict=False))
    spec = plugin_spec(backbone, task_type=task, classes=classes)
    return spec, dict(zip("abc", probabilities, strict=False)), expected


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_uncertain_at_its_threshold_or_where_the_best_class_does_not_reach_it(
    name: str, backbone: Backbone
) -> None:
    spec, probabilities, expected = case(backbone, name)
    decisions = decide(spec, probabilities)
    found = [n for n in probabilities if is_uncertain(spec, n, probabilities=probabilities, decisions=decisions)]
    assert found == expected


@pytest.mark.parametrize("name", ANSWERS)
def test_a_prediction_warns_of_each_uncertain_class_that_has_a_logit(name: str, backbone: Backbone) -> None:
    spec, probabilities, expected = case(backbone, name)
    slices = {"axial": preprocess(study(), spec.views[0].preprocessing)}
    count = len(slices["axial"].array)
    member = MemberAnswer(
        np.array(list(probabilities.values())), {"axial": torch.full((count,), 1 / count)}, {"axial": 1.0}, None
    )
    prediction = predicted(spec, [member], slices, {})
    assert [label for label, is_so in prediction.to_dict()["uncertain"].items() if is_so] == list(expected)
    found = [w for w in prediction.warnings if w.startswith("Uncertain: ")]
    warned = [label for label in expected if label in spec.explained]
    assert len(found) == len(warned)
    for sentence, label in zip(found, warned, strict=True):
        assert f"'{label}'" in sentence
        assert ("no class reaches its threshold" in sentence) == (name == "none reaches its threshold")


@pytest.mark.parametrize(("count", "depth", "warned"), [(4, 1, True), (4, 2, False), (1, 1, False), (None, 1, False)])
def test_a_single_slice_is_warned_of_where_the_plugin_looks_at_several(
    count: int | None, depth: int, warned: bool, backbone: Backbone
) -> None:
    policy = SliceSpec(policy="at_most", count=count) if count else SliceSpec()
    spec = plugin_spec(backbone, views=(view(backbone, "axial", slices=policy),))
    whole = study()
    volume = Volume(whole.array[:depth], whole.ijk_to_ras)
    slices = {"axial": preprocess(volume, spec.views[0].preprocessing)}
    member = MemberAnswer(
        np.array([0.1, 0.9]), {"axial": torch.full((len(slices["axial"].array),), 1.0)}, {"axial": 1.0}, None
    )
    assert any("one slice alone" in w for w in predicted(spec, [member], slices, {}).warnings) == warned
