"""Odd names of files, folders, plugins, classes and cases; files that vanish, and folders that may not be written."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from networks import plugin_spec
from volumes import study, write_dicom_series

from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.cohort import classify_cohort
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.heatmap import heatmap
from AnyMC3DLib.manifest import CohortCase, read_manifest
from AnyMC3DLib.plugin import read_spec, save_plugin
from AnyMC3DLib.report import write_report
from AnyMC3DLib.spec import ClassSpec
from AnyMC3DLib.volume import Volume, read_volume, write_volume

from .bench import (
    answer_of,
    answer_with_maps,
    backbone,
    good_answer,
    good_plugin,
    good_study,
    listing,
    plugin_tensors,
    scratch,
    told,
    watched,
)
from .fault import Fault, Outcome, refused
from .tables import spec

GROUP = "names and places"
ODD = (
    "a b", " lead", "trail ", "dot.", "dots...", "-x", "--help", "it's", 'say "x"', "two\nlines", "tab\tx",
    "\x1b[31mred",
    "Mu\u0308ller", "M\u00fcller", "\u05d0\u05d1\u05d2", "\u202eabc", "\U0001f9e0", "CON", "nul.x", "LPT1", "x" * 200,
    "\u00fc" * 122, "x" * 300, "a\\b", "%s%d", "{0}", "$HOME", "~", "*", "[a]", "a;b", "`id`", "=1+1", "@x", "..", ".",
    ".hidden", "../up", "a/../../up", "/abs", "C:x", "a:b", "\ud800", "a\0b", "", "x=y", "image=x", "nrrd", ".nrrd",
)  # fmt: skip
CASES = ("a", "a b", "x" * 100, "p-1.2_c", "..", "CON", "a/b")
NAMES = st.sampled_from(ODD) | st.text(min_size=1, max_size=20)


def _made(make: Callable[[], Any]) -> bool:
    """Whether the file system itself takes such a name."""
    try:
        make()
    except (OSError, ValueError):
        return False
    return True


@functools.cache
def _stored() -> dict[str, Path]:
    """The good study as files of each kind, and as a small DICOM series."""
    places = {ending: scratch() / f"stored{ending}" for ending in (".nrrd", ".nii.gz", ".mha")}
    for place in places.values():
        write_volume(place, study())
    series = scratch() / "stored-series"
    write_dicom_series(series, Volume(study().array[:3], study().ijk_to_ras))
    return {**places, "": series}


@functools.cache
def _read(ending: str) -> Volume:
    return read_volume(_stored()[ending])


def _image(case: tuple[str, str], folder: Path) -> Outcome:
    """An image is read by any name that the disk takes, and else refused."""
    name, ending = case
    twin = _read(ending)
    with watched(folder) as inside:
        place = Path(f"{inside}/{name}{ending}")
        copy = shutil.copytree if ending == "" else shutil.copyfile
        # A folder's name that ends in Windows' separator is refused.
        fit = place.parent == inside and not (ending == "" and name.endswith("\\"))
        made = fit and _made(lambda: copy(_stored()[ending], place))
        found, error = told(lambda: read_volume(place))
        if error is not None:
            assert not made, f"{name!r} is a good name here: {error}"
            return refused(InputError(str(error).replace("\n", " ")))
    assert np.array_equal(found.array, twin.array) and np.array_equal(found.ijk_to_ras, twin.ijk_to_ras)
    return Outcome.WORKED


def _plugin(name: str, folder: Path) -> Outcome:
    """A plugin file answers alike whatever it is called."""
    twin = good_answer()
    with watched(folder) as inside:
        place = Path(f"{inside}/{name}")
        made = place.parent == inside and _made(lambda: place.write_bytes(good_plugin()))
        found, error = told(lambda: answer_of(place))
        if error is not None:
            assert not made, f"{name!r} is a good name here: {error}"
            return refused(InputError(str(error).replace("\n", " ")))
    assert found.probabilities == twin.probabilities
    return Outcome.WORKED


def _output(case: tuple[str, str], folder: Path) -> Outcome:
    """A heatmap, a report or a plugin goes where it was asked for, whole, and nothing else is left."""
    name, kind = case
    answer = answer_with_maps()
    shown = heatmap(answer, good_study().image("image"))
    with watched(folder) as inside:
        # A path of the user's own may lead up; here it is to stay in the folder.
        place = Path(f"{inside}/{name.replace('..', 'up').lstrip('/')}{'' if kind in ('report', 'plugin') else kind}")
        work: dict[str, Callable[[], Any]] = {
            "report": lambda: write_report(place, predictions={"Test": answer}, study=good_study(), title=name),
            "plugin": lambda: save_plugin(place, spec(), [plugin_tensors()]),
        }
        _, error = told(work.get(kind, lambda: write_volume(place, shown)))
        left = [path for path in listing(inside) if ".writing" in path]
        assert not left, left
        if error is not None:
            assert not any(path.is_file() for path in inside.rglob("*")), "something half is left"
            return refused(InputError(str(error).replace("\n", " ")))
        if kind == "report":
            said = json.loads((place / "predictions.json").read_text(encoding="utf-8"))
            assert said["predictions"]["Test"]["probabilities"] == answer.probabilities
        elif kind == "plugin":
            assert read_spec(place) == spec()
        else:
            assert np.array_equal(read_volume(place).array, shown.array)
    return Outcome.WORKED


def _words(case: tuple[str, str, str, str], folder: Path) -> Outcome:
    """Odd names of plugin, classes and case are refused, or come back from the cohort's files; none leads out."""
    plugin_name, first, second, case_name = case
    with watched(folder) as inside:
        out, file = inside / "out", inside / "plugin.safetensors"

        def work() -> list[CohortCase]:
            made = plugin_spec(
                backbone(), name=plugin_name, classes=(ClassSpec(name=first), ClassSpec(name=second, threshold=0.0))
            )
            save_plugin(file, made, [plugin_tensors()])
            engine = Classifier(backbone())
            try:
                engine.load(file)
                cases = [dataclasses.replace(CohortCase(case_name, {"image": _stored()[".nrrd"]}))]
                result = classify_cohort(engine, cases, out, heatmaps=True, heatmap_class=second)
                assert result.done == (case_name,), (out / "failures.csv").read_text()
                return cases
            finally:
                for loaded in list(engine.plugins):
                    engine.unload(loaded)

        _, error = told(work)
        assert {path.name for path in inside.iterdir()} <= {"out", "plugin.safetensors"}
        if error is not None:
            return refused(InputError(str(error).replace("\n", " ")))
        with (out / "results.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))[1:]
        plain = [
            [cell[1:] if cell[:1] == "'" and cell[1:2] in tuple("=+-@\t\r") else cell for cell in row] for row in rows
        ]
        assert [row[:3] for row in plain] == [[case_name, plugin_name, label] for label in (first, second)]
        maps = list((out / "heatmaps" / case_name).glob("*"))
        assert len(maps) == 1 and maps[0].name.isascii() and maps[0].name.endswith(".nrrd")
    return Outcome.WORKED


def _case_names(names: list[str], folder: Path) -> Outcome:
    """A table of cases with odd names: refused, or each name is a file of its own below the folder."""
    with watched(folder) as inside:
        table = inside / "table.csv"
        with table.open("w", newline="", encoding="utf-8", errors="replace") as stream:
            csv.writer(stream).writerows([["case", "image"], *([name, "a.nii"] for name in names)])
        cases, error = told(lambda: read_manifest(table, [spec()]))
        if error is not None:
            return refused(error)
        for case in cases:
            place = (inside / "cases" / f"{case.id}.json").resolve()
            assert place.parent == (inside / "cases").resolve() and place.name == f"{case.id}.json"
        assert len({case.id.casefold() for case in cases}) == len(cases)
    return Outcome.WORKED


FAULTS = [
    Fault(group=GROUP, name="images and DICOM folders by odd names", judge=_image, quick=20, full=300,
          cases=st.tuples(NAMES, st.sampled_from([".nrrd", ".nii.gz", ".mha", ""]))),
    Fault(group=GROUP, name="plugin files by odd names", cases=NAMES, judge=_plugin, quick=12, full=150),
    Fault(group=GROUP, name="heatmaps, reports and plugins written to odd names", judge=_output, quick=16, full=200,
          cases=st.tuples(NAMES, st.sampled_from([".nrrd", ".nii.gz", ".mha", ".nrrd", "report", "plugin"]))),
    Fault(group=GROUP, name="odd names of plugin, classes and case in a cohort", judge=_words, quick=8, full=150,
          cases=st.tuples(NAMES, NAMES, NAMES, st.sampled_from(CASES))),
    Fault(group=GROUP, name="odd names of cases in a table", cases=st.lists(NAMES, min_size=1, max_size=3),
          judge=_case_names, quick=12, full=300),
]  # fmt: skip
