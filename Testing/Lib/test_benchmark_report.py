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

from AnyMC3DLib.benchmark.arenas import ask
from AnyMC3DLib.benchmark.gaps import Gap, Measured
from AnyMC3DLib.benchmark.groups import Entry, Group, gather, grouped
from AnyMC3DLib.benchmark.guide import advise
from AnyMC3DLib.benchmark.labels import signed, value_words
from AnyMC3DLib.benchmark.questions import AXES, Question
from AnyMC3DLib.benchmark.report import write_report
from AnyMC3DLib.benchmark.report_tables import rank_tables
from AnyMC3DLib.benchmark.rows import ResultsTable
from AnyMC3DLib.benchmark.statistics import delong
from AnyMC3DLib.benchmark.verdict import judge
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.training import metrics
from AnyMC3DLib.training.metrics import Estimate

TWO, THREE = given.TWO, given.THREE
METHOD, SHARE, SIZE = given.QUESTIONS
TITLE = "Main <script>alert(1)</script> & more"


class Reader(HTMLParser):
    """Tables as lists of rows of cells, texts, and what tags there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data: str) -> None:
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
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
        patch.setattr(metrics, "RESAMPLES", 40)
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


def averaged(table: ResultsTable, method: str, dataset: str, *, seeds: tuple[int, ...], **fields: object) -> np.ndarray:
    rows = [given.config(method, dataset, seed=seed, **fields) for seed in seeds]
    return np.mean([table.predictions(row.key).probabilities for row in rows], axis=0)


# The numbers


def test_a_table_has_the_mean_of_the_seeds_and_the_auroc_of_averaged_probabilities(
    written: Written,
) -> None:
    table = next(t for t in Reader(written.page).tables if t[0][0] == "Compared")
    cells = next(row for row in table if row[0].startswith("AnyMC3D"))
    rows = [written.table.row(given.config("anymc3d", TWO, seed=seed).key) for seed in given.SEEDS]
    values = [row.figure("auroc")[0] for row in rows]
    assert cells[1].split() == [f"{np.mean(values):.3f}", "seeds", *", ".join(f"{v:.3f}" for v in values).split()]
    mean = averaged(written.table, "anymc3d", TWO, seeds=given.SEEDS)
    targets = written.table.predictions(rows[0].key).targets
    assert cells[2].split()[0] == f"{roc_auc_score(targets, mean[:, 1]):.3f}"
    assert cells[7] == "410 thousand"
    assert cells[8].split()[0] == f"{np.mean([row.minutes for row in rows]):.1f}"
    assert cells[9] == "1901"


def test_a_difference_is_of_the_seeds_that_both_have(written: Written) -> None:
    lines = written.lines("differences.csv")
    line = next(x for x in lines if x["question"] == "method" and x["place"] == TWO and x["first"] == "3D ResNet-18")
    assert line["second"] == "AnyMC3D"
    assert line["seeds"] == "0 1", "seed 2 of the first failed"
    first, second = (averaged(written.table, m, TWO, seeds=(0, 1))[:, 1] for m in ("resnet18-3d", "anymc3d"))
    targets = written.table.predictions(given.config("anymc3d", TWO).key).targets
    expected = delong(targets, first, second)
    assert float(line["auroc"]) == pytest.approx(expected.value, abs=1e-9)
    assert float(line["auroc_low"]) < expected.value < float(line["auroc_high"])
    assert float(line["delong_p"]) == pytest.approx(expected.p, rel=1e-6)
    assert float(line["holm_p"]) >= float(line["delong_p"])
    assert len(line["rows"].split()) == 4
    assert signed(expected.value) in written.part("method")


def test_delong_is_left_out_where_a_task_has_more_than_two_classes(written: Written) -> None:
    for line in written.lines("differences.csv"):
        assert bool(line["delong_p"]) == line["place"].startswith(TWO)


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


class Fixed(Measured):
    """Differences of AUROC that are set, whatever the predictions say."""

    def __init__(self, *, low: float, high: float) -> None:
        self.figure = Estimate((low + high) / 2, low, high)

    def gap(self, first: Group, second: Group) -> Gap:
        return Gap(first, second, (0,), dict.fromkeys(("auroc", "brier"), self.figure))


def two_methods(*, better: str = "frozen", cost: dict[str, float] | None = None) -> list[Group]:
    """Two methods with one seed, of which `better` has the higher AUROC; frozen takes fewer minutes."""
    rows = []
    for method in ("anymc3d", "frozen"):
        config = given.config(method, TWO)
        figures = {"macro": {"auroc": {"value": 0.9 if method == better else 0.8}, "brier": {"value": 0.1}}}
        row = given.failed(config)
        costs = {"minutes": given.COSTS[method][1], "parameters": 5, "peak_mb": 7, **(cost or {})}
        row = dataclasses.replace(row, status="done", error="", test=figures, **costs)
        rows.append(Entry(config, row))
    return grouped(rows)


@pytest.mark.parametrize("better", ["anymc3d", "frozen"])
def test_a_winner_is_told_apart_where_the_interval_lies_above_0_alone(better: str) -> None:
    arena = ask(METHOD, two_methods(better=better)).arenas[0]
    apart, alike = (judge(arena, Fixed(low=low, high=0.1)) for low in (0.01, -0.01))
    name, other = ("AnyMC3D", "Frozen backbone") if better == "anymc3d" else ("Frozen backbone", "AnyMC3D")
    start = f"{name} has the highest AUROC, 0.900 (one seed)"
    assert apart.headline == f"{start}, and can be told apart from every other."
    assert apart.is_apart
    assert alike.headline == f"{start}, but cannot be told apart from {other}."
    assert not alike.is_apart


def test_a_winner_by_seeds_that_loses_by_averaged_probabilities_is_not_called_ahead() -> None:
    verdict = judge(ask(METHOD, two_methods()).arenas[0], Fixed(low=-0.1, high=-0.01))
    assert not verdict.is_apart
    assert "is yet behind AnyMC3D" in " ".join(verdict.details)


def test_the_guide_says_that_no_difference_was_found_where_the_interval_includes_0() -> None:
    asked = ask(METHOD, two_methods())
    assert {"no difference" in advice.text for advice in advise(asked, Fixed(low=-0.01, high=0.02))} == {True}
    assert "no difference" not in "".join(advice.text for advice in advise(asked, Fixed(low=0.01, high=0.02)))


def test_the_guide_says_nothing_without_a_paired_difference() -> None:
    class Unknown(Measured):
        def __init__(self) -> None:
            pass

        def gap(self, first: Group, second: Group) -> Gap:
            return Gap(first, second, why="There is no seed that both have.")

    assert advise(ask(METHOD, two_methods(better="anymc3d")), Unknown()) == []


def test_minutes_are_not_compared_where_embeddings_came_from_a_cache() -> None:
    fixed = Fixed(low=-0.02, high=-0.01)
    texts = [" ".join(a.text for a in advise(ask(METHOD, two_methods(better="anymc3d", cost=cost)), fixed))
             for cost in (None, {"reused": 0.5})]  # fmt: skip
    assert "If minutes matter" in texts[0]
    assert "Frozen backbone takes 3.1 minutes, where AnyMC3D takes 12.5 minutes" in texts[0]
    assert "minutes matter" not in texts[1]


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


# Who meets whom


def test_methods_that_bring_their_own_network_meet_the_others_at_each_backbone() -> None:
    rows = [given.changed(given.config("anymc3d", TWO), backbone=name) for name in ("a", "b")]
    rows += [given.changed(given.config("frozen", TWO), backbone=name) for name in ("a", "b")]
    rows.append(given.config("resnet18-3d", TWO))
    question = Question(id="q", title="t", sentence="s", axis="method", series=("backbone",))
    arenas = ask(question, grouped([Entry(row) for row in rows])).arenas
    assert [arena.conditions for arena in arenas] == [("a",), ("b",)]
    assert [arena.names for arena in arenas] == [("AnyMC3D", "Frozen backbone", "3D ResNet-18")] * 2


def test_rows_that_differ_in_a_field_that_no_one_named_are_not_taken_for_one() -> None:
    rows = [given.changed(given.config("anymc3d", TWO), rank=rank) for rank in (4, 8)]
    asked = ask(METHOD, grouped([Entry(row) for row in rows]))
    assert asked.arenas[0].names == ("AnyMC3D, rank 4", "AnyMC3D, rank 8")


def test_the_reference_is_the_papers_the_questions_or_the_best() -> None:
    groups = two_methods(better="frozen")
    assert ask(METHOD, groups).arenas[0].reference.config.method == "anymc3d"
    other = dataclasses.replace(METHOD, reference="frozen")
    assert ask(other, groups).arenas[0].reference.config.method == "frozen"
    assert ask(METHOD, groups[1:]).arenas[0].reference.config.method == "frozen"


def test_mean_ranks_are_told_over_five_datasets_and_their_lack_over_fewer() -> None:
    entries = []
    for dataset in "abcde":
        for place, method in enumerate(("frozen", "anymc3d", "resnet18-3d")):
            config = given.changed(given.config(method, TWO), dataset=dataset)
            test = {"macro": {"auroc": {"value": 0.9 - place / 10}}}
            entries.append(Entry(config, dataclasses.replace(given.failed(config), status="done", error="", test=test)))
    few, many = (rank_tables(ask(METHOD, grouped(entries[:count])))[0] for count in (6, 15))
    assert few.lines == () and "need 5 datasets, but there are 2" in few.words
    assert many.lines == (("Frozen backbone", "1.00"), ("AnyMC3D", "2.00"), ("3D ResNet-18", "3.00"))


def test_a_difference_turned_round_has_the_other_sign() -> None:
    first, second = two_methods()
    gap = Gap(first, second, (0,), {"auroc": Estimate(0.1, -0.02, 0.3)}, 0.2)
    turned = gap.turned()
    assert turned["auroc"] == Estimate(-0.1, -0.3, 0.02)
    assert (turned.first, turned.second, turned.p) == (second, first, 0.2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"axis": "seed"}, "is about 'seed'"),
        ({"id": "a/b"}, "letters, digits"),
        ({"series": ("method",)}, "a field twice"),
        ({"against": "share"}, "not its axis or series"),
        ({"where": {"colour": [1]}}, "no row has"),
        ({"where": {"share": 1.0}}, "a list of values"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(fields: dict[str, object], words: str) -> None:
    sound = {"id": "q", "title": "t", "sentence": "s", "axis": "method"}
    with pytest.raises(InputError, match=words):
        Question(**{**sound, **fields})


def test_every_field_that_a_question_may_be_about_has_words() -> None:
    row = given.changed(
        given.config("anymc3d", TWO), fusion="mean", rank=4, targets=("query",), views=("axial",), pixels=0.1, epochs=3
    )
    assert all(value_words(name, getattr(row, name)) and value_words(name, None) for name in AXES)
