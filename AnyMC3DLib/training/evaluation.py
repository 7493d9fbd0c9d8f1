"""From a plugin file to its figures on labelled cases."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..answer import half_or_more
from ..backbone import Backbone
from ..errors import InputError
from ..plugin import load_networks, read_spec
from ..progress import ProgressCallback
from ..scope import ImageFacts, remarks_of
from ..spec import PluginSpec
from .cases import Case, of_split
from .metrics import Estimate, accuracy, auc, bootstrap, paired_difference, share_of
from .slices import cut_cases
from .task import TaskSpec
from .trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a plugin says of some cases, and its figures, which are computed when they are asked for.

    `targets` are class numbers [N], or for a multilabel task [N, classes] of 0, 1, and -1 where a label is missing;
    `probabilities` [N, classes]. `beyond` says of each case whether it is unlike those that the plugin has learnt
    from, None where it cannot tell. `against` is another plugin on the same cases. Intervals are by patient.
    """

    spec: PluginSpec
    ids: list[str]
    patients: list[str]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    beyond: list[bool] | None = None
    against: Evaluation | None = None

    @functools.cached_property
    def auc(self) -> Estimate:
        """Area under the ROC curve."""
        return bootstrap(auc, self.targets, self.probabilities, patients=self.patients)

    @functools.cached_property
    def accuracy(self) -> Estimate:
        """Share of right answers."""
        return bootstrap(accuracy, self.targets, self.probabilities, patients=self.patients)

    @functools.cached_property
    def share_beyond(self) -> Estimate | None:
        """Share of the cases whose pictures are unlike those that the plugin has learnt from; None if it cannot tell.

        The interval is Wilson's.
        """
        return None if self.beyond is None else share_of(sum(self.beyond), len(self.beyond))

    @functools.cached_property
    def difference(self) -> Estimate | None:
        """The paired difference in AUC to the other plugin."""
        if self.against is None:
            return None
        both = self.probabilities, self.against.probabilities
        return paired_difference(auc, self.targets, *both, patients=self.patients)


def evaluate_plugin(
    path: str | Path,
    cases: Callable[[PluginSpec], Sequence[Case]],
    backbone: Backbone,
    *,
    splits: Sequence[str] = ("test",),
    against: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Figures of the plugin file `path`, and the paired difference to the file `against`; intervals are by patient."""
    found = _predict(path, cases, backbone, splits, progress)
    if against is None:
        return found
    if [c.name for c in read_spec(against).classes] != [c.name for c in found.spec.classes]:
        raise InputError("The two plugins do not answer for the same classes: they cannot be compared.")
    other = _predict(against, cases, backbone, splits, progress)
    if other.ids != found.ids or not np.array_equal(other.targets, found.targets):
        raise InputError("The two plugins do not answer for the same cases: they cannot be compared.")
    return dataclasses.replace(found, against=other)


def _predict(
    path: str | Path,
    cases: Callable[[PluginSpec], Sequence[Case]],
    backbone: Backbone,
    splits: Sequence[str],
    progress: ProgressCallback | None,
) -> Evaluation:
    spec, networks = load_networks(path, backbone)
    try:
        cut = cut_cases(of_split(cases(spec), splits), spec, dtype=np.float32, progress=progress)
        members, beyond = [], []
        for network in networks:
            trainer = Trainer(network, TaskSpec(plugin=spec).training, progress=progress)
            embedded = trainer.embed(cut, step="Evaluating")
            members.append(trainer.answers(embedded, cut))
            beyond.append([network.is_beyond(each) for each in embedded])
    finally:
        for network in networks:
            network.close()
    known = spec.scope is not None and spec.scope.density
    unlike = None
    if known or (spec.scope is not None and spec.scope.images):
        facts = [{source: ImageFacts.from_array(array) for source, array in each.items()} for each in cut.facts]
        votes = zip(zip(*beyond, strict=True), facts, strict=True)
        # As a prediction says it: by the pictures, or by what is known of the image.
        unlike = [half_or_more(vote) or bool(remarks_of(spec, fact)) for vote, fact in votes]
    return Evaluation(spec, cut.ids, cut.patients, cut.targets, np.mean(members, axis=0), unlike)
