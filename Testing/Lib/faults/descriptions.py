"""Tasks, suites, and the records of a cohort and of a benchmark, as files that were changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st
from small_suite import TASK

from AnyMC3DLib.benchmark.config import RowConfig
from AnyMC3DLib.benchmark.rows import ResultsTable, Row, TestPredictions
from AnyMC3DLib.benchmark.suites import read_suite
from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.ledger import CaseRecord, Ledger
from AnyMC3DLib.training.dataset_classes import place_of, read_classes
from AnyMC3DLib.training.dataset_file import read_cells
from AnyMC3DLib.training.task import read_task

from .bench import JUNK, at, good_answer, places_in, watched, with_value
from .fault import Fault, Outcome, refused
from .tables import spec

GROUP = "descriptions and records"
SUITE: dict[str, Any] = {
    "title": "A suite",
    "datasets": [{"name": "Balls", "task": "task.json"}],
    "rows": [{"methods": ["anymc3d"], "shares": [0.5, 1.0], "seeds": [0, 1], "recipe": {"epochs": 1}}],
    "questions": [{"id": "q", "title": "Which?", "sentence": "Which is best?", "axis": "share"}],
}
Places = list[tuple[float, int]]
PLACES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=3)


def _flip(content: bytes, places: Places) -> bytes:
    changed = bytearray(content)
    for share, bit in places:
        changed[int(share * (len(changed) - 1))] ^= 1 << bit
    return bytes(changed)


def _read_file(content: bytes, folder: Path, *, name: str, read: Callable[[Path], Any]) -> Any:
    """What is read of a file with this content; a refusal as an Outcome."""
    with watched(folder) as inside:
        place = inside / name
        place.write_bytes(content)
        try:
            return read(place)
        except AnyMC3DError as error:
            return refused(error, private=(str(inside),))


def _task_field(case: tuple[int, Any], folder: Path) -> Outcome:
    """A value is refused, or kept as it was given."""
    paths = list(places_in(TASK))
    path = paths[case[0] % len(paths)]
    content = json.dumps(with_value(TASK, path, case[1])).encode()
    found = _read_file(content, folder, name="task.json", read=read_task)
    if isinstance(found, Outcome):
        return found
    kept, given = at(found.to_dict(), path), case[1]
    filled = isinstance(given, dict) and isinstance(kept, dict)
    assert all(_equal(kept[k], v) for k, v in given.items()) if filled else _equal(kept, given), f"{given!r}: {kept!r}"
    return Outcome.WORKED


def _equal(kept: Any, given: Any) -> bool:
    """Lists and tuples are the same, and NaN is NaN."""
    return repr(kept).replace("(", "[").replace(",)", "]").replace(")", "]") == repr(given) or kept == given


def _task_bytes(content: bytes, folder: Path) -> Outcome:
    """Read as JSON reads it, or refused."""
    found = _read_file(content, folder, name="task.json", read=read_task)
    if isinstance(found, Outcome):
        return found
    given = json.loads(content)
    assert found.plugin.name == given["plugin"]["name"] and found.training.epochs == given["training"].get("epochs", 10)
    return Outcome.WORKED


def _flipped_task(places: Places, folder: Path) -> Outcome:
    return _task_bytes(_flip(json.dumps(TASK).encode(), places), folder)


DEEP = st.integers(500, 100_000).map(lambda n: b'{"plugin":' * n) | st.integers(500, 100_000).map(lambda n: b"[" * n)
TASK_NOISE = st.one_of(st.binary(max_size=60), DEEP, JUNK.map(lambda v: json.dumps(v).encode()),
                       st.integers(1, 9999).map(lambda n: b'{"plugin": ' + b"1" * n + b"}"))  # fmt: skip


def _suite_bytes(content: bytes, folder: Path) -> Outcome:
    """Read as YAML's safe reader reads it, or refused; nothing is made of what a tag names."""
    (folder / "was-run").unlink(missing_ok=True)
    found = _read_file(content, folder, name="suite.yaml", read=read_suite)
    assert not (folder / "was-run").exists()
    if isinstance(found, Outcome):
        return found
    assert found.title == yaml.safe_load(content)["title"]
    return Outcome.WORKED


def _suite_field(case: tuple[int, Any], folder: Path) -> Outcome:
    paths = list(places_in(SUITE))
    path = paths[case[0] % len(paths)]
    try:
        text = yaml.safe_dump(with_value(SUITE, path, case[1])).encode()
    except (yaml.YAMLError, UnicodeError):
        text = json.dumps(with_value(SUITE, path, case[1])).encode()
    return _suite_bytes(text, folder)


def _flipped_suite(places: Places, folder: Path) -> Outcome:
    return _suite_bytes(_flip(yaml.safe_dump(SUITE).encode(), places), folder)


def _bomb(case: tuple[int, int, str], folder: Path) -> Outcome:
    """Aliases of aliases, merges of merges, deep lists: few bytes that unfold to many."""
    depth, width, field = case
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    lines += [f"{field}: *a{depth - 1}"]
    return _suite_bytes("\n".join(lines).encode(), folder)


def _odd_yaml(case: tuple[str, int], folder: Path) -> Outcome:
    text, number = case
    marker = folder / "was-run"
    return _suite_bytes(text.replace("MARKER", str(marker)).replace("N", str(number)).encode(), folder)


ODD_YAML = (
    "!!python/object/apply:os.system ['touch MARKER']", "title: !!python/object/apply:pathlib.Path.touch ['MARKER']",
    "? [a, b]\n: 1\ntitle: x", "1: 2\ntitle: x\nrows: [{methods: [anymc3d]}]\ndatasets: [a]", "title: 2020-01-N1",
    "- a\n- b", "title: .nan\nrows: .inf\ndatasets: ~", "&a [*a]", "title: &a {x: *a}", "%YAML 9.N\n---\ntitle: x",
    "title: x\nrows: [{methods: [anymc3d], null: 1}]\ndatasets: [a]", "a: b: c", "\ttitle: x", "{" * 2000, "[" * 2000,
    "rows: &r [{methods: *r}]\ndatasets: [a]\ntitle: x",
    "title: x\nrows: [{methods: [anymc3d], shares: [.nan]}]\ndatasets: [a]",
)  # fmt: skip


def _case_record() -> CaseRecord:
    predictions = {"Test": good_answer().to_dict()}
    return CaseRecord(case="a", status="done", run="r", inputs="i", process="1", predictions=predictions)


def _ledger(change: Callable[[bytes], bytes], folder: Path) -> Outcome:
    """A changed record is made again; where it counts as done, it is what was written, and the tables say so."""
    good = _case_record()
    with watched(folder) as inside:
        ledger = Ledger(inside, run="r", plugins={"Test": spec()}, cases=["a", "b"])
        ledger.write("a", good.to_text())
        ledger.write("b", good.to_text().replace('"case": "a"', '"case": "b"'))
        place = inside / "cases" / "a.json"
        place.write_bytes(change(place.read_bytes()))
        again = Ledger(inside, run="r", plugins={"Test": spec()}, cases=["a"])
        again.write_tables()
        rows = (inside / "results.csv").read_text().splitlines()[1:]
        if again.is_done("a", "i"):
            chances = {row.split(",")[2]: float(row.split(",")[3]) for row in rows}
            assert chances == good_answer().probabilities, "a changed record counts as done"
            return Outcome.WORKED
        assert not rows or "a" not in [row.split(",")[0] for row in rows], "what does not count is in the table"
    return Outcome.REFUSED


def _flipped_record(places: Places, folder: Path) -> Outcome:
    return _ledger(lambda content: _flip(content, places), folder)


def _noise_record(content: bytes, folder: Path) -> Outcome:
    return _ledger(lambda _: content, folder)


def _row() -> tuple[Row, TestPredictions]:
    config = RowConfig(dataset="Balls", method="anymc3d", recipe={"epochs": 1})
    row = Row(key=config.key, config=config, status="done", test={"macro": {"auroc": {"value": 0.5}}}, minutes=1.0)
    said = TestPredictions(("a", "b"), ("p", "q"), np.array([0, 1]), np.array([[0.25, 0.75], [0.5, 0.5]]))
    return row, said


def _row_changed(case: tuple[bool, int, Any], folder: Path) -> Outcome:
    """A row whose file was changed is refused, or has the configuration that its key names; the others stay."""
    of_row, number, value = case
    row, said = _row()
    with watched(folder) as inside:
        table = ResultsTable(inside)
        table.add(row, said)
        other = RowConfig(dataset="Other", method="anymc3d")
        table.add(Row(key=other.key, config=other, status="failed", error="x"))
        place = inside / ("rows" if of_row else "predictions") / f"{row.key}.{'json' if of_row else 'csv'}"
        if isinstance(value, bytes):
            place.write_bytes(value)
        elif isinstance(value, tuple):
            place.write_bytes(_flip(place.read_bytes(), list(value)))
        elif of_row:
            content = json.loads(place.read_text())
            paths = list(places_in(content))
            place.write_text(json.dumps(with_value(content, paths[number % len(paths)], value)))
        assert other.key in [each.key for each in table.rows()]
        try:
            found, answers = table.row(row.key), table.predictions(row.key)
        except AnyMC3DError as error:
            return refused(error, private=(str(inside),))
        assert found is not None and found.config.key == row.key
        found.figure("auroc")
        assert len(answers.ids) == len(answers.probabilities) == len(answers.targets)
        assert np.isfinite(answers.probabilities).all()
    return Outcome.WORKED


def _classes_file(content: bytes, folder: Path) -> Outcome:
    """The file of the order of classes is used where it fits the table, and else is as if it were not there."""
    with watched(folder) as inside:
        table = inside / "cases.csv"
        table.write_text("case,label,image\na,x,1.nii\nb,y,2.nii\n")
        place_of(table).write_bytes(content)
        found = read_classes(table, read_cells(table))
        assert found is None or set(found.classes) >= {"x", "y"}
    return Outcome.WORKED if found else Outcome.REFUSED


ORDERS = st.fixed_dictionaries(
    {
        "classes": st.lists(st.sampled_from(["x", "y", "z", ""]), max_size=3),
        "images": st.just(["image"]) | JUNK,
        "task_type": st.sampled_from(["binary", "multilabel", "odd"]),
    }
)
CLASSES = st.one_of(DEEP, st.binary(max_size=40), JUNK.map(lambda v: json.dumps(v).encode()),
                    ORDERS.map(lambda v: json.dumps(v).encode()))  # fmt: skip
RECORDS = st.one_of(st.binary(max_size=60), DEEP, JUNK.map(lambda v: json.dumps(v).encode()))
FIELDS = st.tuples(st.integers(0, 999), JUNK)
ODD_ROWS = st.sampled_from([b'"' + b"x" * 200_000, b"\0", b"case,patient\n", b"a\n" * 3])
ROW_CHANGES = st.tuples(
    st.booleans(), st.integers(0, 99), st.one_of(JUNK, RECORDS, PLACES.map(tuple), ODD_ROWS)
)  # fmt: skip

FAULTS = [
    Fault(group=GROUP, name="a field of a task holds any JSON", cases=FIELDS, judge=_task_field, quick=25, full=500),
    Fault(group=GROUP, name="a task of noise, of deep nesting, of endless numbers", cases=TASK_NOISE, judge=_task_bytes,
          quick=12),
    Fault(group=GROUP, name="a task with bits flipped", cases=PLACES, judge=_flipped_task, quick=10),
    Fault(group=GROUP, name="a field of a suite holds any JSON", cases=FIELDS, judge=_suite_field, quick=20, full=400),
    Fault(group=GROUP, name="a suite with bits flipped", cases=PLACES, judge=_flipped_suite, quick=8),
    Fault(group=GROUP, name="a suite whose aliases unfold without end", quick=6, full=60, judge=_bomb,
          cases=st.tuples(st.integers(3, 12), st.integers(2, 10), st.sampled_from(["title", "rows", "odd"]))),
    Fault(group=GROUP, name="a suite of tags, odd keys, loops and depth", quick=10, full=60, judge=_odd_yaml,
          cases=st.tuples(st.sampled_from(ODD_YAML), st.integers(0, 9))),
    Fault(group=GROUP, name="a cohort's record with bits flipped", cases=PLACES, judge=_flipped_record, quick=12),
    Fault(group=GROUP, name="a cohort's record of any kind", cases=RECORDS, judge=_noise_record, quick=8),
    Fault(group=GROUP, name="a benchmark's row, or its predictions, changed", cases=ROW_CHANGES, judge=_row_changed,
          quick=20, full=300),
    Fault(group=GROUP, name="the file of the order of classes is of any kind", cases=CLASSES, judge=_classes_file,
          quick=10),
]  # fmt: skip
