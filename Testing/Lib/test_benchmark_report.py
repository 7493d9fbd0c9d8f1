"""The report of a benchmark: its numbers against the table, what it says first, and what it never leaves out."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import io
import re
import xml.etree.ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import benchmark_table as given
import matplotlib.image
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from AnyMC3DLib.benchmark.names import NAMES
from AnyMC3DLib.benchmark.report import write_report
from AnyMC3DLib.benchmark.report.groups import Group, gather, grouped
from AnyMC3DLib.benchmark.report.labels import signed
from AnyMC3DLib.benchmark.rows import ResultsTable
from AnyMC3DLib.benchmark.statistics import delong
from AnyMC3DLib.training import metrics

TWO, THREE = given.TWO, given.THREE
METHOD, SHARE, SIZE = given.QUESTIONS
TITLE = "Main <script>alert(1)</script> & more"


class Reader(HTMLParser):
    """Tables as lists of rows of cells, texts, and what tags there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.in_table = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
            self.in_table = True
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_table = self.in_table and tag != "table"

    def handle_data(self, data: str) -> None:
        if self.in_table and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] = " ".join(f"{self.tables[-1][-1][-1]} {data}".split())


@dataclasses.dataclass(frozen=True)
class Written:
    """A report that was written, with the table it is of."""

    table: ResultsTable
    folder: Path
    page: str

    @property
    def text(self) -> str:
        """What a person reads, on one line."""
        bare = re.sub(r"<style>.*?</style>|<[^>]+>", " ", self.page, flags=re.DOTALL)
        return " ".join(html.unescape(bare).split())

    def lines(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def part(self, name: str) -> str:
        """The section of that id, as a person reads it."""
        inside = re.search(rf'<section[^>]* id="{name}">(.*?)</section>', self.page, re.DOTALL)[1]
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", inside)).split())


@pytest.fixture(autouse=True, scope="module")
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 200)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, few_resamples: None) -> Written:
    table = given.table(tmp_path_factory.mktemp("table"))
    folder = tmp_path_factory.mktemp("report")
    told = {"title": TITLE, "remarks": ["No <LUNA16>."]}
    page = write_report(table, given.configs(), given.QUESTIONS, folder=folder, tasks=given.tasks(), **told)
    return Written(table, folder, page.read_text(encoding="utf-8"))


def groups_of(table: ResultsTable) -> list[Group]:
    return grouped(gather(table, given.configs()))


def aurocs(table: ResultsTable, method: str, dataset: str, *, seeds: tuple[int, ...], **fields: object) -> list[float]:
    """Of a binary dataset, with scikit-learn."""
    said = [table.predictions(given.config(method, dataset, seed=seed, **fields).key) for seed in seeds]
    return [float(roc_auc_score(each.targets, each.probabilities[:, 1])) for each in said]


# The numbers


def test_a_table_has_the_mean_of_the_seeds_with_an_interval_that_holds_it(written: Written) -> None:
    table = next(t for t in Reader(written.page).tables if t[0][0] == "Compared")
    cells = next(row for row in table if row[0].startswith("AnyMC3D"))
    rows = [written.table.row(given.config("anymc3d", TWO, seed=seed).key) for seed in given.SEEDS]
    values = aurocs(written.table, "anymc3d", TWO, seeds=given.SEEDS)
    assert cells[1].split()[0] == f"{np.mean(values):.3f}"
    assert cells[1].endswith("seeds " + ", ".join(f"{v:.3f}" for v in values))
    low, high = map(float, re.search(r"\(([\d.]+) to ([\d.]+)\)", cells[1]).groups())
    assert low < np.mean(values) < high
    assert cells[6] == "410 thousand"
    assert cells[7].split()[0] == f"{np.mean([row.minutes for row in rows]):.1f}"
    assert cells[8] == "1901"


def test_a_difference_is_the_mean_over_the_seeds_that_both_have_and_not_that_of_ensembles(written: Written) -> None:
    lines = written.lines("differences.csv")
    line = next(x for x in lines if x["question"] == "method" and x["place"] == TWO and x["first"] == "3D ResNet-18")
    assert line["second"] == "AnyMC3D"
    assert line["seeds"] == "0 1", "seed 2 of the first failed"
    first, second = (aurocs(written.table, m, TWO, seeds=(0, 1)) for m in ("resnet18-3d", "anymc3d"))
    expected = float(np.mean(np.subtract(first, second)))
    assert float(line["auroc"]) == pytest.approx(expected, abs=1e-9)
    assert float(line["auroc_low"]) < expected < float(line["auroc_high"])
    assert int(line["comparisons"]) == 2
    assert float(line["auroc_low_at_once"]) < float(line["auroc_low"]), "of two comparisons each is wider"
    assert line["delong_p"] == "", "there are two seeds"
    assert len(line["rows"].split()) == 4
    assert signed(expected) in written.part("method")


def test_delong_is_told_where_there_is_one_seed_and_corrected_for_the_comparisons(tmp_path: Path) -> None:
    table, rows = ResultsTable(tmp_path), [given.config(m, d) for d in (TWO, THREE) for m in given.SKILL]
    for row in rows:
        table.add(given.done(row, given.predictions(row)), given.predictions(row))
    page = write_report(table, rows, [METHOD], title="t", folder=tmp_path, tasks=given.tasks())
    lines = Written(table, tmp_path, page.read_text(encoding="utf-8")).lines("differences.csv")
    assert [bool(line["delong_p"]) for line in lines] == [line["place"].startswith(TWO) for line in lines]
    line = next(line for line in lines if line["place"] == TWO and line["first"] == "Frozen backbone")
    one, other = (table.predictions(given.config(m, TWO).key) for m in ("frozen", "anymc3d"))
    expected = delong(one.targets, one.probabilities[:, 1], other.probabilities[:, 1])
    assert float(line["auroc"]) == pytest.approx(expected.value, abs=1e-9)
    assert float(line["delong_p"]) == pytest.approx(expected.p, rel=1e-6)
    assert float(line["holm_p"]) >= float(line["delong_p"])


def test_the_results_have_one_line_for_each_row_with_its_whole_configuration(written: Written) -> None:
    lines = {line["key"]: line for line in written.lines("results.csv")}
    assert len(lines) == len(given.configs())
    for config in given.configs():
        line = lines[config.key]
        assert (line["dataset"], line["method"]) == (config.dataset, config.method)
        assert (float(line["share"]), int(line["size"]), int(line["seed"])) == (config.share, config.size, config.seed)
        assert line["pretrained"] == ("yes" if config.pretrained else "no")
        row = written.table.row(config.key)
        if row is not None and row.status == "done":
            figures = [float(line[f"brier{end}"]) for end in ("", "_low", "_high")]
            assert figures == list(row.figure("brier"))
            assert float(line["validation_auroc"]) == row.figure("auroc", part="validation")[0]
            assert (int(line["epochs_done"]), int(line["planned"])) == (row.epochs, row.planned)
            assert (line["cases_train"], line["minutes"]) == (str(row.cases["train"]), str(row.minutes))


def test_rows_that_failed_are_missing_or_were_cut_are_named_with_the_reason(written: Written) -> None:
    lines = {line["key"]: line for line in written.lines("results.csv")}
    told = written.part("gaps")
    for config, status, words in (
        (given.FAILED, "failed", "The loss is <nan> in 'epoch 3'"),
        (given.MISSING, "missing", "It was not computed yet."),
        (given.BUDGETED, "done", given.CUT),
    ):
        assert lines[config.key]["status"] == status
        assert words in lines[config.key]["error"] + lines[config.key]["cut"]
        assert config.key[:8] in told and words in told
    assert lines[given.FAILED.key]["auroc"] == ""
    assert "someone" not in written.page + str(lines), "folders name people"
    assert "Of 60 rows 58 are done, 1 failed and 1 missing. The budget cut 1 training short." in written.text
    assert "seed 2 failed" in written.part("method"), "the table says what its mean lacks"


def test_a_damaged_row_is_named_and_the_others_are_told(tmp_path: Path) -> None:
    rows = [given.config("anymc3d", TWO, seed=seed) for seed in (0, 1)]
    table = ResultsTable(tmp_path / "table")
    for row in rows:
        table.add(given.done(row, given.predictions(row)), given.predictions(row))
    (tmp_path / "table" / "rows" / f"{rows[0].key}.json").write_text("{", encoding="utf-8")
    page = write_report(table, rows, [METHOD], title="t", folder=tmp_path, tasks=given.tasks())
    text = page.read_text(encoding="utf-8")
    assert "is not JSON" in text
    assert "AnyMC3D alone has figures" in text


# What is said


def test_the_page_says_first_who_is_ahead_also_where_that_is_not_anymc3d(written: Written) -> None:
    answers = written.part("answers")
    assert f"{TWO}: AnyMC3D has the highest AUROC" in answers
    assert "AnyMC3D has the highest AUROC in 4" in answers
    assert "Frozen backbone has the highest AUROC in 2" in answers
    assert f"{TWO}, 10 % of the data: Frozen backbone has the highest AUROC" in written.part("share")
    order = [attributes.get("id") for tag, attributes in Reader(written.page).tags if tag == "section"]
    assert order[:3] == ["answers", "gaps", "guide"]


def test_the_guide_tells_up_to_how_many_cases_the_other_method_is_better(written: Written) -> None:
    guide = written.part("guide")
    assert f"{TWO}: for 60 training cases or fewer, Frozen backbone rather than AnyMC3D;" in guide
    assert "for 180 training cases or more, AnyMC3D rather than Frozen backbone" in guide
    assert re.search(rf"{THREE}: Enlarging 28-pixel pictures to 128 pixels(:| brings)", guide)
    known = {row.key[:8] for row in written.table.rows()}
    named = {key for rows in re.findall(r"rows ([0-9a-f, ]+)", guide) for key in rows.replace(",", " ").split()}
    assert named and named <= known


def test_published_values_stand_beside_ours_on_the_same_split_alone(written: Written) -> None:
    tables = [t for t in Reader(written.page).tables if t[0][0] == "Model and input size"]
    assert len(tables) == 4, "two figures on two datasets"
    lines = {row[0]: row for row in tables[0][1:]}
    assert lines["ResNet-18, 28 pixels <i> published"][1:] == ["0.871", "Somebody et al. (2023), table 3"]
    ours = next(row for name, row in lines.items() if name.startswith("AnyMC3D, 28 px"))
    group = next(g for g in groups_of(written.table) if g.config == given.config("anymc3d", TWO))
    assert ours[1] == f"{group.mean('auroc'):.3f}"
    assert "Elsewhere" not in written.text
    assert [row[1] for row in tables[0][1:]] == sorted((row[1] for row in tables[0][1:]), reverse=True)


def test_published_values_are_left_out_where_the_test_cases_are_others(tmp_path: Path) -> None:
    row = given.config("anymc3d", TWO)
    table, said = ResultsTable(tmp_path), given.predictions(row, cases=50)
    table.add(given.done(row, said), said)
    page = write_report(table, [row], [METHOD], title="t", folder=tmp_path, tasks=given.tasks())
    text = page.read_text(encoding="utf-8")
    assert "has 160 cases, but 50 were tested here" in text
    assert "0.871" not in text


def test_an_empty_benchmark_is_a_sentence(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "table")
    nothing = write_report(table, [], given.QUESTIONS, title="t", folder=tmp_path / "a", tasks={})
    assert "No row was asked for, so there is nothing to report." in nothing.read_text(encoding="utf-8")
    row = given.config("anymc3d", TWO)
    missing = write_report(table, [row], given.QUESTIONS, title="t", folder=tmp_path / "b", tasks={})
    text = missing.read_text(encoding="utf-8")
    assert "None of 1 row has figures yet: 1 missing." in text
    assert row.key[:8] in text
    assert (tmp_path / "b" / "results.csv").read_text(encoding="utf-8").count("\n") == 2


def test_without_a_task_the_figures_of_the_seeds_are_told_and_why_there_is_no_difference(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path)
    rows = [given.config(method, TWO) for method in ("anymc3d", "frozen")]
    for row in rows:
        table.add(given.done(row, given.predictions(row)), given.predictions(row))
    page = write_report(table, rows, [METHOD], title="t", folder=tmp_path, tasks={})
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert f"{table.row(rows[0].key).figure('auroc')[0]:.3f}" in text
    assert "is not shown to be ahead of" in text
    assert f"The task of '{TWO}' is not at hand" in text


# The files


def test_names_are_escaped_and_the_page_asks_for_nothing(written: Written) -> None:
    reader = Reader(written.page)
    assert "<script" not in written.page
    assert not [tag for tag, _ in reader.tags if tag in ("b", "i", "script", "link", "nan", "luna16")]
    assert TITLE in html.unescape(written.page)
    sources = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
    assert sources and all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert all(a["href"].startswith("#") for tag, a in reader.tags if tag == "a")
    assert "url(" not in written.page


def test_each_picture_is_in_the_page_and_a_file_and_narrow_enough_for_a_phone(written: Written) -> None:
    files = sorted(place.name for place in (written.folder / "pictures").iterdir())
    expected = [f"{q}-{n}.png" for q in ("method", "share", "size") for n in (1, 2)]
    assert files == sorted([*expected, "method-1-parameters.png", "method-2-parameters.png"])
    images = re.findall(r'<img alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)">', written.page)
    assert len(images) == len(files)
    for words, data in images:
        root = xml.etree.ElementTree.fromstring(base64.b64decode(data))
        assert float(root.get("width").removesuffix("pt")) <= 300, "text of 10 points is as large on a phone"
        assert "AUROC" in words
    for name in files:
        picture = matplotlib.image.imread(io.BytesIO((written.folder / "pictures" / name).read_bytes()))
        assert picture[..., :3].min() < 0.2, "something is drawn"


def test_wide_tables_scroll_in_a_box_of_their_own(written: Written) -> None:
    tags = Reader(written.page).tags
    for number, (tag, attributes) in enumerate(tags):
        if tag == "table" and attributes.get("class") == "figures":
            assert tags[number - 1] == ("div", {"class": "wide"})
    assert ".wide { overflow-x: auto;" in written.page
    assert "@media print" in written.page and 'content="width=device-width' in written.page


# How methods were trained


def test_a_recipe_is_told_for_each_method_with_its_source_and_what_keeps_its_weights(written: Written) -> None:
    tables = [t for t in Reader(written.page).tables if t[0][0] == "Method"]
    assert len(tables) == 1 and f"<caption>{html.escape(TWO)}, {THREE}</caption>" in written.page, "both have the same"
    header, *lines = tables[0]
    cells = {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines}
    lora, volume = (
        next(v for k, v in cells.items() if k.startswith(NAMES[m].title)) for m in given.SKILL if m != "frozen"
    )
    recipe = given.task(TWO).training
    assert (lora["Epochs"], lora["Warm-up epochs"]) == (str(recipe.epochs), str(recipe.warm_up_epochs))
    assert lora["Learning rates"] == f"adapters {recipe.adapter_rate:g}, head {recipe.head_rate:g}"
    assert lora["Batch norm"] == "as pretrained" and volume["Batch norm"] == "learns"
    assert (volume["Warm-up epochs"], volume["Slices a step"]) == ("none", "whole volume")
    assert lora["Weights kept"] == "best AUROC of validation"
    assert volume["Source"] == NAMES["resnet18-3d"].source
    assert "the same validation cases choose the weights" in written.part("how")


def test_recipes_that_keep_the_last_weights_are_not_said_to_be_chosen_by_validation(tmp_path: Path) -> None:
    rows = [given.changed(given.config("anymc3d", TWO, share=s), recipe={"keep": "last"}) for s in (0.1, 1.0)]
    rows[0] = given.changed(rows[0], epochs=31)
    page = write_report(ResultsTable(tmp_path), rows, [SHARE], title="t", folder=tmp_path, tasks=given.tasks())
    found = Written(ResultsTable(tmp_path), tmp_path, page.read_text(encoding="utf-8"))
    assert "the validation cases choose nothing" in found.part("how")
    lines = next(t for t in Reader(found.page).tables if t[0][0] == "Method")[1:]
    assert [line[0].startswith(f"AnyMC3D, {share} % of the data") for line, share in zip(lines, (10, 100), strict=True)]
    assert [line[2] for line in lines] == ["31", str(given.task(TWO).training.epochs)]
    assert {line[7] for line in lines} == {"last"}


def test_intervals_are_said_to_be_over_cases_where_each_is_a_patient_of_its_own(tmp_path: Path) -> None:
    for cases_a_patient, words in ((1, "resamples of the test cases;"), (2, "resamples of the test patients;")):
        row, table = given.config("anymc3d", TWO), ResultsTable(tmp_path / words[-9:-1])
        said = given.predictions(row)
        patients = tuple(f"p{n // cases_a_patient}" for n in range(len(said.ids)))
        table.add(given.done(row, said), dataclasses.replace(said, patients=patients))
        page = write_report(table, [row], [METHOD], title="t", folder=table.folder, tasks=given.tasks())
        assert words in Written(table, table.folder, page.read_text(encoding="utf-8")).part("how")


def test_a_published_method_on_another_backbone_than_its_papers_says_so(tmp_path: Path) -> None:
    row, table = given.changed(given.config("frozen", TWO), method="raptor"), ResultsTable(tmp_path)
    said = given.predictions(given.config("frozen", TWO))
    done = given.done(given.config("frozen", TWO), said)
    table.add(dataclasses.replace(done, key=row.key, config=row), said)
    page = write_report(table, [row], [METHOD], title="t", folder=tmp_path, tasks=given.tasks())
    words = "on efficientnet_lite0 where its paper has DINOv2"
    assert words in Written(table, tmp_path, page.read_text(encoding="utf-8")).part("published")
