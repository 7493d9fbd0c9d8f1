"""A scope for a plugin that was trained before it could have one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..backbone import Backbone
from ..errors import InputError
from ..files import check_writable
from ..plugin import load_networks, read_spec, save_plugin
from ..progress import ProgressCallback
from ..spec import ScopeSpec
from .cases import Case, of_split
from .learn_scope import learn_scope, some_of
from .run import check_patients
from .slices import cut_cases
from .task import TaskSpec
from .trainer import Trainer


def add_scope(
    path: str | Path,
    out: str | Path,
    cases: Sequence[Case],
    backbone: Backbone,
    *,
    train_splits: Sequence[str] = ("train",),
    validation_splits: Sequence[str] = ("val",),
    progress: ProgressCallback | None = None,
) -> ScopeSpec:
    """Write the plugin `path` with the scope of the cases that it has learnt from to `out`, and return the scope.

    Its answers stay the same. Raises InputError for an ensemble, whose members have learnt from different cases.
    """
    check_writable(out)
    if read_spec(path).members > 1:
        raise InputError(f"'{Path(path).name}' is an ensemble of folds: train it again for a scope of each member.")
    spec, (network,) = load_networks(path, backbone)
    try:
        train = cut_cases(of_split(cases, train_splits), spec, progress=progress)
        held = cut_cases(of_split(cases, validation_splits), spec, progress=progress) if validation_splits else None
        check_patients(train, held)
        trainer = Trainer(network, TaskSpec(plugin=dataclasses.replace(spec, scope=None)).training, progress=progress)
        held_out = [] if held is None else trainer.embed(held, step="Embedding held-out studies")
        some = some_of(train, seed=0)
        seen = trainer.embed(some, step="Learning its scope")
        scope = learn_scope(network, train, seen, patients=some.patients, held_out=held_out)
        save_plugin(out, dataclasses.replace(spec, scope=scope), [network.state_dict()])
    finally:
        network.close()
    return scope
