"""The list of deliberate bugs stays one of this library: its texts are there, its tests exist, its bugs compile."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutant_list import Mutant, read_mutants

MUTANTS = read_mutants()
HERE = Path(__file__).resolve().parent


def named(mutants: tuple[Mutant, ...]) -> dict[str, Mutant]:
    return {mutant.name: mutant for mutant in mutants}


def test_there_are_thirty_deliberate_bugs_or_more_each_with_a_name_of_its_own() -> None:
    assert len(named(MUTANTS)) == len(MUTANTS) >= 30
    assert all(mutant.why and mutant.tests for mutant in MUTANTS)


@pytest.mark.parametrize("name", named(MUTANTS))
def test_a_bugs_old_text_is_in_the_library_once_and_the_bug_is_still_python(name: str) -> None:
    mutant = named(MUTANTS)[name]
    changed = mutant.changed()
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(mutant.source))


@pytest.mark.parametrize("name", named(MUTANTS))
def test_the_tests_that_must_catch_a_bug_exist(name: str) -> None:
    for node in named(MUTANTS)[name].tests:
        file, _, test = node.partition("::")
        functions = {part.name for part in ast.parse((HERE / file).read_text(encoding="utf-8")).body
                     if isinstance(part, ast.FunctionDef)}  # fmt: skip
        assert test.partition("[")[0] in functions
