"""Answers belong to the volume as it was classified, not as it is now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hosting import add_volume, host, prediction  # noqa: F401 - a fixture


def test_answers_are_filed_with_the_volume_as_it_was_handed_over(host: Any) -> None:  # noqa: F811
    from AnyMC3DUI.filing import file_answers
    from AnyMC3DUI.study import Study

    volume = add_volume()
    card = SimpleNamespace(name="Head lesion", sources=("image",), regions=())
    study = Study({"image": volume})
    (ticked,) = study.ticked([card])
    before = np.array(ticked.images["image"].ijk_to_ras)
    volume.SetOrigin(50.0, 60.0, 70.0)
    written: list[tuple[Any, Any]] = []
    store = SimpleNamespace(write=lambda node, answers, *, image: written.append((node, image)))
    file_answers(store, study, {"Head lesion": prediction()}, [card])
    ((node, image),) = written
    assert node is volume
    np.testing.assert_array_equal(image.ijk_to_ras, before)
