"""Files that were changed, and names that cannot be: told in a sentence, and never taken for what they are not."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
import torch
from faults.bench import answer_of, good_answer, good_plugin, joined, split
from faults.outputs import OUTPUTS
from networks import plugin_spec, tiny_backbone
from safetensors.torch import save_file
from shell import anymc3d
from stored import small_vit

from AnyMC3DLib import files
from AnyMC3DLib.backbone_import import import_backbone
from AnyMC3DLib.benchmark.config import RowConfig
from AnyMC3DLib.benchmark.rows import ResultsTable, Row
from AnyMC3DLib.benchmark.suites import MOST_NODES, read_suite
from AnyMC3DLib.errors import BackboneError, InputError, PluginError
from AnyMC3DLib.messages import Estimate
from AnyMC3DLib.plugin import DIGEST_KEY, check_content, read_spec
from AnyMC3DLib.plugin_edit import check_whole, revise_plugin
from AnyMC3DLib.training.cases import read_cases
from AnyMC3DLib.training.checkpoint import Checkpoint, CheckpointStore
from AnyMC3DLib.training.dataset_classes import place_of, read_classes
from AnyMC3DLib.training.dataset_file import read_cells
from AnyMC3DLib.training.feature_cache import FeatureCache
from AnyMC3DLib.training.task import read_task
from AnyMC3DLib.wording import one_line

DEEP = '{"a":' * 50_000


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    place = tmp_path / "plugin.safetensors"
    place.write_bytes(good_plugin())
    return place


def flip_last(place: Path) -> None:
    content = bytearray(place.read_bytes())
    content[-2] ^= 1
    place.write_bytes(content)


# Plugins


def test_a_plugin_of_one_flipped_bit_is_not_loaded_nor_revised_nor_called_whole(plugin: Path) -> None:
    flip_last(plugin)
    before = plugin.read_bytes()
    for use in (answer_of, check_whole, lambda place: revise_plugin(place, description="x")):
        with pytest.raises(PluginError, match=r"'plugin.safetensors' is damaged, it is not what was written"):
            use(plugin)
    assert plugin.read_bytes() == before


def test_a_plugin_whose_description_was_changed_by_hand_is_not_loaded(plugin: Path) -> None:
    plugin.write_bytes(plugin.read_bytes().replace(b'threshold\\": 0.5', b'threshold\\": 0.1'))
    assert read_spec(plugin).classes[1].threshold == 0.1
    with pytest.raises(PluginError, match="it is not what was written"):
        answer_of(plugin)


def test_a_revised_plugin_is_whole_and_answers_as_before(plugin: Path) -> None:
    revise_plugin(plugin, description="Another one")
    check_content(plugin)
    assert answer_of(plugin).probabilities == good_answer().probabilities


def test_a_plugin_without_a_digest_is_loaded(plugin: Path) -> None:
    header, data = split(good_plugin())
    del header["__metadata__"][DIGEST_KEY]
    plugin.write_bytes(joined(header, data))
    assert answer_of(plugin).probabilities == good_answer().probabilities
    revise_plugin(plugin, description="Another one")
    assert DIGEST_KEY not in split(plugin.read_bytes())[0]["__metadata__"]


# Weights


def torch_folder(folder: Path, content: bytes) -> Path:
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    return folder


def test_an_archive_of_weights_of_one_flipped_bit_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(small_vit().state_dict(), stream)
    content = bytearray(stream.getvalue())
    content[len(content) // 2] ^= 1
    with pytest.raises(BackboneError, match="is damaged, a sum within it is wrong: get the file again"):
        import_backbone(torch_folder(tmp_path / "given", bytes(content)), id="some", folder=tmp_path / "store")


def test_an_archive_that_was_written_without_sums_is_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    counted = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(small_vit().state_dict(), stream)
    finally:
        torch.serialization.set_crc32_options(counted)
    folder = torch_folder(tmp_path / "given", stream.getvalue())
    assert import_backbone(folder, id="some", folder=tmp_path / "store").id == "some"


# Descriptions


def test_a_task_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(DEEP)
    with pytest.raises(InputError, match=r"'task.json' is nested too deep to be a task"):
        read_task(tmp_path / "task.json")


def test_a_task_in_another_encoding_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_bytes('{"plugin": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"'task.json' is not text in UTF-8: save it as such"):
        read_task(tmp_path / "task.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n"
         + "".join(f"{n}: &{n} [{', '.join([f'*{chr(ord(n) - 1)}'] * 10)}]\n" for n in "bcdefgh") + "title: *h",
         f"more than {MOST_NODES} values once its aliases are filled in"),
        ("a: &a {x: 1, y: 2}\n"
         + "".join(f"{n}: &{n} {{<<: [{', '.join([f'*{chr(ord(n) - 1)}'] * 10)}]}}\n" for n in "bcdefgh"),
         f"more than {MOST_NODES} values once its aliases are filled in"),
        ("title: &a [*a]", "nested too deep, or within itself"),
        ("[" * 900, "nested too deep, or within itself"),
        ("title: 0x" + "f" * 9000, "must be a text, but is a number of too many digits"),
    ],
    ids=["aliases", "merges", "itself", "depth", "digits"],
)  # fmt: skip
def test_a_suite_that_unfolds_without_end_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_suite(tmp_path / "suite.yaml")
    assert len(str(caught.value)) < 700


def test_a_suite_may_use_aliases(tmp_path: Path) -> None:
    text = "title: x\ndatasets: [Balls]\nrows: [&a {methods: [anymc3d]}, {<<: *a, seeds: [1]}]"
    (tmp_path / "suite.yaml").write_text(text)
    assert [block.seeds for block in read_suite(tmp_path / "suite.yaml").rows] == [(0,), (1,)]


def test_a_number_of_epochs_beyond_all_floats_is_refused() -> None:
    with pytest.raises(InputError, match="'epochs' must be at least 0, but is -1000"):
        Estimate.from_dict({"task": "x", "data": "y", "epochs": -(10**400)})


def test_the_order_of_classes_that_is_nested_without_end_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("case,label,image\na,x,1.nii\n")
    place_of(table).write_text(DEEP)
    assert read_classes(table, read_cells(table)) is None


# Records


def test_a_cohorts_record_with_another_probability_is_made_again(tmp_path: Path) -> None:
    output = OUTPUTS["a cohort's record and tables"]
    output.write(tmp_path, 0)
    place = tmp_path / "cohort" / "cases" / "a.json"
    content = json.loads(place.read_text())
    content["predictions"]["Test"]["probabilities"]["lesion"] = 0.123
    place.write_text(json.dumps(content))
    assert output.read(tmp_path) == set()
    content["digest"] = ""
    place.write_text(json.dumps(content))
    assert output.read(tmp_path) == {0}


@pytest.mark.parametrize("text", ['"' + "x" * 200_000, "case\n", ""])
def test_predictions_of_a_row_that_are_no_table_are_refused(text: str, tmp_path: Path) -> None:
    output = OUTPUTS["a benchmark's row"]
    output.write(tmp_path, 0)
    (key,) = [place.stem for place in (tmp_path / "results" / "rows").iterdir()]
    (tmp_path / "results" / "predictions" / f"{key}.csv").write_text(text)
    with pytest.raises(InputError, match=f"'{key}.csv' cannot be read: delete their row"):
        ResultsTable(tmp_path / "results").predictions(key)


@pytest.mark.parametrize("content", [DEEP.encode(), b"\xff\xfe", b"{"])
def test_a_row_that_is_no_json_is_left_out_of_all_rows(content: bytes, tmp_path: Path) -> None:
    table, config = ResultsTable(tmp_path), RowConfig(dataset="Balls", method="anymc3d")
    table.add(Row(key=config.key, config=config, status="failed", error="x"))
    (tmp_path / "rows" / "0.json").write_bytes(content)
    assert [row.key for row in table.rows()] == [config.key]
    with pytest.raises(InputError, match=r"'0.json' is not JSON: delete it"):
        table.row("0")


# States and caches


def test_of_two_trainings_in_one_folder_the_second_to_write_is_told(tmp_path: Path) -> None:
    first, second = CheckpointStore(tmp_path), CheckpointStore(tmp_path)
    first.save(Checkpoint({"a": torch.ones(1)}, {"by": 1}))
    with pytest.raises(InputError, match=r"Another training writes into .* too: give each a folder of its own"):
        second.save(Checkpoint({"a": torch.ones(1)}, {"by": 2}))
    first.save(Checkpoint({"a": torch.ones(1)}, {"by": 1}))
    assert CheckpointStore(tmp_path).newest().facts == {"by": 1}


def test_a_state_of_another_program_is_left_aside(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(Checkpoint({"a": torch.ones(1)}, {"by": 1}))
    save_file({"a": torch.ones(1)}, tmp_path / "state-00000002.safetensors")
    assert CheckpointStore(tmp_path).newest().facts == {"by": 1}


def test_embeddings_of_one_flipped_bit_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FeatureCache(tmp_path).keep({"case": {"axial": torch.ones(3, 4)}})
    assert FeatureCache(tmp_path).find(["case"])
    (shard,) = tmp_path.iterdir()
    flip_last(shard)
    with caplog.at_level(logging.WARNING):
        assert FeatureCache(tmp_path).find(["case"]) == {}
    assert "is damaged and not used" in caplog.text


# Names and places


@pytest.mark.parametrize("name", ["a\0b.txt", "\ud800.txt", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    for write in (files.check_writable, lambda place: files.write_text(place, "x")):
        with pytest.raises(InputError, match=r"^Cannot write .*; choose another"):
            write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_keeps_silent_on_a_full_disk_is_found_out(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    from faults.disk import at_most

    (tmp_path / "a").write_text("old")

    def write() -> None:
        with files.replacing(tmp_path / "a") as temporary, at_most(10):
            # As some writers of images do: what does not fit is lost without a word.
            temporary.write_bytes(b"0123456789")
            with temporary.open("rb+") as stream:
                files.os.fsync(stream.fileno())
            files._flush_to_disk(temporary)

    with pytest.raises(InputError, match="File too large; choose another place"):
        write()
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_name_of_two_lines_and_colours_stays_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line("a\nb\x1b[31m\u202ec\ud800 \xe9") == "a b?[31m?c? \xe9"
    assert anymc3d("plugin", "show", tmp_path / "two\nlines\x1b[31m") == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.isascii() and "\x1b" not in told


def test_a_case_that_is_left_out_is_not_told_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "Doe").mkdir()
    (tmp_path / "Doe" / "Jane.dcm").write_text("x")
    (tmp_path / "table.csv").write_text("case,label,image,mask\na,normal,Doe,Doe.nii\n")
    (case,) = read_cases(tmp_path / "table.csv", plugin_spec(tiny_backbone(depth=1)))
    sentence = f"'{tmp_path / 'Doe'}', 'Doe', 'Jane.dcm', '{tmp_path / 'Doe' / 'Jane.dcm'}' and 'Doe.nii'."
    assert case.without_files(sentence) == (
        "'image', 'image', 'a slice of image', 'a slice of image' and 'mask:image'."
    )
