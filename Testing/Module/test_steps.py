"""Sequences of steps: how they end, and that each can be cancelled from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
import worker_desk
from AnyMC3DUI.steps import InTurns, Sequence, Steps

from AnyMC3DLib.errors import AnyMC3DError, InputError


class Held:
    """A step that ends when a test says so."""

    def __init__(self) -> None:
        self.begun = self.cancelled = False
        self.done: Callable[[Any], None]
        self.failed: Callable[[Exception], None]

    def begin(self, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        self.begun, self.done, self.failed = True, done, failed

    def cancel(self) -> None:
        self.cancelled = True


class Ran:
    """A sequence and what became of it."""

    def __init__(self, steps: Callable[[], Steps]) -> None:
        self.ends: list[Any] = []
        self.cleaned = False
        self.sequence = Sequence(self._cleaning(steps), done=self.ends.append, failed=self.ends.append, what="The work")
        self.sequence.begin()

    def _cleaning(self, steps: Callable[[], Steps]) -> Steps:
        try:
            return (yield from steps())
        finally:
            self.cleaned = True


def test_each_step_gives_its_value_and_the_last_line_the_result() -> None:
    first, second = Held(), Held()

    def steps() -> Steps:
        one = yield first
        two = yield second
        return one + two

    ran = Ran(steps)
    assert first.begun and not second.begun
    first.done(1)
    assert second.begun and ran.ends == []
    second.done(2)
    assert ran.ends == [3] and ran.sequence.over and ran.cleaned


def test_an_error_is_raised_where_the_step_was_and_may_be_caught_there() -> None:
    first, second = Held(), Held()

    def steps() -> Steps:
        try:
            yield first
        except InputError:
            return (yield second)

    ran = Ran(steps)
    first.failed(InputError("No."))
    second.done("went on")
    assert ran.ends == ["went on"]


def test_an_error_that_is_not_caught_is_the_end() -> None:
    step = Held()

    def steps() -> Steps:
        yield step

    ran, error = Ran(steps), InputError("No.")
    step.failed(error)
    assert ran.ends == [error] and ran.cleaned


def test_a_fault_of_ours_is_one_sentence_and_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    step = Held()

    def steps() -> Steps:
        yield step
        raise KeyError("where")

    ran = Ran(steps)
    step.done(None)
    (error,) = ran.ends
    assert isinstance(error, AnyMC3DError) and str(error).startswith("The work failed unexpectedly (KeyError)")
    assert "KeyError: 'where'" in caplog.text


def test_a_cancelled_sequence_lets_its_step_go_and_tells_nothing() -> None:
    step = Held()

    def steps() -> Steps:
        yield step

    ran = Ran(steps)
    ran.sequence.cancel()
    assert step.cancelled and ran.cleaned
    step.done("late")
    step.failed(InputError("late"))
    ran.sequence.cancel()
    assert ran.ends == []


def test_a_sequence_can_be_cancelled_from_within() -> None:
    first, second, made = Held(), Held(), []

    def steps() -> Steps:
        yield first
        made[0].sequence.cancel()
        yield second

    made.append(Ran(steps))
    first.done(None)
    assert not second.begun and made[0].cleaned and made[0].ends == []


def test_a_sequence_that_cancels_itself_at_its_end_tells_nothing() -> None:
    step, made = Held(), []

    def steps() -> Steps:
        yield step
        made[0].sequence.cancel()

    made.append(Ran(steps))
    step.done(None)
    assert made[0].ends == [] and made[0].cleaned


def counting(turns: list[int], *, to: int = 3, fails: bool = False) -> Generator[float, None, str]:
    try:
        for number in range(to):
            turns.append(number)
            yield number / to
        if fails:
            raise InputError("No.")
        return "counted"
    finally:
        turns.append(-1)


def test_work_in_turns_gives_its_value_and_says_how_far_it_is() -> None:
    turns: list[int] = []
    ends: list[Any] = []
    far: list[float] = []
    worker_desk.application()
    work = InTurns(counting(turns), progress=far.append)
    work.begin(ends.append, ends.append)
    assert turns == []
    worker_desk.spin(lambda: ends)
    assert ends == ["counted"] and turns == [0, 1, 2, -1] and far[-1] == 1


def test_work_in_turns_lets_the_application_do_other_things() -> None:
    ends: list[Any] = []
    gap = worker_desk.LongestGap()
    worker_desk.application()

    def spinning() -> Generator[float, None, None]:
        clock = worker_desk.qt.QElapsedTimer()
        clock.start()
        while clock.elapsed() < 300:
            yield 0.5

    work = InTurns(spinning())
    gap.start()
    work.begin(ends.append, ends.append)
    worker_desk.spin(lambda: ends)
    gap.stop()
    assert 0 < gap.busy < 0.1


def test_an_error_of_work_in_turns_is_told() -> None:
    ends: list[Any] = []
    worker_desk.application()
    work = InTurns(counting([], fails=True))
    work.begin(ends.append, ends.append)
    worker_desk.spin(lambda: ends)
    assert str(ends[0]) == "No."


def test_cancelled_work_in_turns_ends_where_it_stands() -> None:
    turns: list[int] = []
    ends: list[Any] = []
    worker_desk.application()
    work = InTurns(counting(turns, to=10**9))
    work.begin(ends.append, ends.append)
    worker_desk.spin(lambda: turns)
    work.cancel()
    assert turns[-1] == -1
    count = len(turns)
    passed: list[bool] = []
    worker_desk.qt.QTimer.singleShot(30, lambda: passed.append(True))
    worker_desk.spin(lambda: passed)
    assert len(turns) == count and ends == []


def test_work_in_turns_may_be_cancelled_by_who_is_told_how_far_it_is() -> None:
    turns: list[int] = []
    ends: list[Any] = []
    made: list[InTurns] = []
    worker_desk.application()
    made.append(InTurns(counting(turns), progress=lambda _: made[0].cancel()))
    made[0].begin(ends.append, ends.append)
    worker_desk.spin(lambda: turns[-1:] == [-1])
    passed: list[bool] = []
    worker_desk.qt.QTimer.singleShot(30, lambda: passed.append(True))
    worker_desk.spin(lambda: passed)
    assert ends == []
