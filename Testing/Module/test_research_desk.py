"""The tabs together: one tab's dataset in the others, a case with its heat, and the question before the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosting import Host, host, qt  # noqa: F401
from plugin_files import write_plugin_file
from test_backbones_panel import write_backbone
from test_module import loaded
from worker_desk import spin

from AnyMC3DLib.backbone_store import FOLDER_VARIABLE
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.volume import Volume, write_volume


@pytest.fixture
def research(host: Host, tmp_path: Path) -> Any:  # noqa: F811
    """The desk with a dataset of two cases, whose classifications are noted and not begun."""
    from AnyMC3DLib.training.dataset import Dataset

    dataset = Dataset()
    for number in range(2):
        place = tmp_path / f"image-{number}.nrrd"
        write_volume(place, Volume(np.full((3, 4, 5), number, dtype=np.int16), np.eye(4)))
        dataset.add(image=place, label=dataset.classes[number])
    dataset.save(tmp_path / "cases.csv")
    desk = loaded(host).desk.research
    desk.dataset.open(tmp_path / "cases.csv")
    desk.asked = []
    desk._classify.ask_about = lambda images, card, name: desk.asked.append((images, card.name, name))
    return desk


def test_the_train_tab_offers_what_was_found_in_the_folder_of_backbones_once_it_was_read(
    research: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from AnyMC3DLib import catalogue

    def never() -> None:
        pytest.fail("the folder was read in the application's thread")

    # Another folder than the one of the fixture, which may be under way.
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "backbones"))
    monkeypatch.setattr(catalogue, "installed", never)
    write_backbone(tmp_path / "backbones", "mine")
    box = research._ui.trainBackboneSelector
    assert box.findData("mine") < 0
    research._ui.tabs.setCurrentIndex(2)
    spin(lambda: box.findData("mine") == 1)
    assert research._ui.backbonesList.count == 1


def card(folder: Path, **fields: Any) -> Any:
    from AnyMC3DUI.plugin_folder import read_card

    write_plugin_file(folder / "plugin.safetensors", **{"name": "Lesion", **fields})
    return read_card(folder / "plugin.safetensors")


def names(images: Mapping[str, Any]) -> dict[str, str]:
    return {source: node.GetName() for source, node in images.items()}


def test_a_wrong_case_is_classified_with_the_plugin_in_the_classify_tab(research: Any, tmp_path: Path) -> None:
    research._ui.tabs.setCurrentIndex(3)
    research._show_case("case-002", card(tmp_path, name="Lesion"), "yes")
    ((images, plugin, class_name),) = research.asked
    assert names(images) == {"image": "case-002"}
    assert (plugin, class_name) == ("Lesion", "yes")
    assert research._ui.tabs.currentIndex == 0


def test_the_one_image_of_a_case_is_that_of_the_plugin_whatever_it_is_called(research: Any, tmp_path: Path) -> None:
    research._show_case("case-001", card(tmp_path, sources=("ct",)), "yes")
    assert names(research.asked[0][0]) == {"ct": "case-001"}


def test_a_plugin_that_needs_more_than_the_case_has_is_told(research: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no image 't1'"):
        research._show_case("case-001", card(tmp_path, sources=("t1", "t2")), "yes")
    assert research.asked == []


def test_a_plugin_that_looks_at_a_region_gets_none_of_another_study(research: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="looks at a region"):
        research._show_case("case-001", card(tmp_path, region="segment"), "yes")
    assert research.asked == []


def test_a_case_that_the_open_dataset_lacks_is_told(research: Any) -> None:
    with pytest.raises(InputError, match="no case 'case-009'"):
        research._load_case("case-009")


@pytest.mark.parametrize(
    ("dataset", "training", "closes"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_the_window_closes_only_where_dataset_and_training_can_be_left(
    research: Any, monkeypatch: pytest.MonkeyPatch, dataset: bool, training: bool, closes: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(research.dataset, "may_leave", lambda: asked.append("dataset") or dataset)
    monkeypatch.setattr(research.training, "may_close", lambda: asked.append("training") or training)
    event = qt.QCloseEvent()
    assert research._question.eventFilter(None, event) is not closes
    # Whoever stays for the dataset has paused no training.
    assert asked == (["dataset", "training"] if dataset else ["dataset"])
    assert not research._question.eventFilter(None, qt.QEvent(qt.QEvent.Show))
    monkeypatch.undo()


def test_a_change_of_the_dataset_reaches_the_other_tabs_once_it_is_quiet(
    research: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(research.training, "refresh", lambda: told.append("train"))
    monkeypatch.setattr(research.evaluation, "refresh", lambda: told.append("evaluate"))
    for label in ("no", "yes", "no"):
        research.dataset.dataset.set_cell(research.dataset.dataset.keys[0], "label", label)
        research.dataset.modified()
    assert told == []
    research._soon.timeout.emit()
    assert told == ["train", "evaluate"]
