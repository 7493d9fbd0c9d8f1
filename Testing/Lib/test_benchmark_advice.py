"""Who is set against whom, who is called ahead, and what is advised: on differences that are set by hand."""

from __future__ import annotations

import dataclasses

import benchmark_table as given
import numpy as np
import pytest

from AnyMC3DLib.benchmark.questions import AXES, Question
from AnyMC3DLib.benchmark.report.arenas import ask
from AnyMC3DLib.benchmark.report.gaps import Gap, Measure, Measured
from AnyMC3DLib.benchmark.report.groups import Entry, Group, grouped
from AnyMC3DLib.benchmark.report.guide import advise
from AnyMC3DLib.benchmark.report.labels import value_words
from AnyMC3DLib.benchmark.report.tables import COLUMNS, arena_tables, rank_tables
from AnyMC3DLib.benchmark.report.verdict import judge
from AnyMC3DLib.benchmark.resamples import FIGURES, Resampled
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.training.metrics import Estimate

TWO = given.TWO
METHOD = given.QUESTIONS[0]


def drawn(low: float, high: float) -> Resampled:
    """Figures whose resamples lie evenly from low to high, with the mean of both as value."""
    resampled = np.linspace(low, high, 401)[:, None].repeat(len(FIGURES), axis=1)
    return Resampled(resampled.mean(axis=0), resampled, (True,) * len(FIGURES), given.predictions(given.FAILED))


class Fixed(Measured):
    """Differences that are set, whatever the predictions say."""

    def __init__(self, *, low: float, high: float) -> None:
        self.drawn = drawn(low, high)

    def gap(self, first: Group, second: Group) -> Gap:
        return Gap(first, second, (0,), self.drawn)


def two_methods(*, better: str = "frozen", cost: dict[str, float] | None = None, others: int = 0) -> list[Group]:
    """Two methods with one seed, of which `better` has the higher AUROC; frozen takes fewer minutes."""
    rows = []
    for method in ("anymc3d", "frozen", *list(given.SKILL)[2 : 2 + others]):
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


def test_a_winner_that_loses_over_the_seeds_that_both_have_is_not_called_ahead() -> None:
    verdict = judge(ask(METHOD, two_methods()).arenas[0], Fixed(low=-0.1, high=-0.01))
    assert not verdict.is_apart
    assert "is yet behind AnyMC3D" in " ".join(verdict.details)


def test_a_winner_of_three_must_be_ahead_by_intervals_that_hold_for_both_comparisons() -> None:
    # 2.5 % of the resamples lie below 0.025 of the width, and 1.25 % below half of that.
    fixed = Fixed(low=-0.02 * 0.2, high=0.98 * 0.2)
    two, three = (judge(ask(METHOD, two_methods(others=n)).arenas[0], fixed) for n in (0, 1))
    assert two.is_apart
    assert not three.is_apart
    assert "cannot be told apart from" in three.headline
    assert "95 % interval for 2 comparisons at once" in " ".join(three.details)


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


def test_memory_that_was_not_measured_recommends_nothing() -> None:
    fixed, texts = Fixed(low=-0.02, high=-0.01), []
    for of_frozen in (3, 0):
        groups = two_methods(better="anymc3d", cost={"peak_mb": 7})
        groups[1] = with_rows(groups[1], peak_mb=of_frozen)
        asked = ask(METHOD, groups)
        texts.append(" ".join(advice.text for advice in advise(asked, fixed)))
    assert "megabytes of memory" in texts[0] and "megabytes of memory" not in texts[1]
    lines = arena_tables(asked, fixed_measure(fixed))[0].lines
    assert lines[1].cells[COLUMNS.index("Peak memory, MB")][0] == "unknown"


def with_rows(group: Group, **fields: object) -> Group:
    """The group with other facts in each row."""
    entries = tuple(dataclasses.replace(e, row=dataclasses.replace(e.row, **fields)) for e in group.entries)
    return dataclasses.replace(group, entries=entries)


def fixed_measure(fixed: Fixed) -> Fixed:
    """Which also gives every group's own figures."""
    fixed.measure = lambda group: Measure(fixed.drawn)
    return fixed


def test_rows_on_a_gpu_are_marked_and_those_of_two_machines_are_not_averaged_unsaid() -> None:
    frozen, fixed = two_methods()[1], fixed_measure(Fixed(low=0.01, high=0.02))
    (row,) = frozen.rows

    def group(*devices: str) -> Group:
        found = []
        for seed, device in enumerate(devices):
            config = given.config("frozen", TWO, seed=seed)
            found.append(Entry(config, dataclasses.replace(row, config=config, device=device, minutes=4.0 + 2 * seed)))
        return Group(found[0].config, tuple(found))

    def line(*devices: str) -> tuple[str, str]:
        (found,) = arena_tables(ask(METHOD, [group(*devices)]), fixed)[0].lines
        return " ".join(found.remarks), " ".join(found.cells[COLUMNS.index("Minutes")])

    assert line("cpu", "cpu")[0] == ""
    assert line("H200", "H200")[0] == "on H200"
    remark, minutes = line("cpu", "H200", "H200")
    assert remark.endswith("seed 0 on processor, 1 thread, seeds 1 and 2 on H200, 1 thread")
    assert minutes == "differs 4.0 on processor, 1 thread; 7.0 on H200, 1 thread"


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
    turned = Gap(first, second, (0,), drawn(-0.02, 0.3), 0.2).turned()
    expected = Estimate(-0.14, -0.3 + 0.025 * 0.32, 0.02 - 0.025 * 0.32)
    assert dataclasses.astuple(turned["auroc"]) == pytest.approx(dataclasses.astuple(expected))
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
