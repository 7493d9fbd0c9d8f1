"""What the Train tab says: how far a training is and how long it takes, what an estimate means, who was hard."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from slicer.i18n import tr as _

from AnyMC3DLib.messages import EpochNote, ProgressNote

GIGABYTE = 1 << 30
TRAINING = "training"
# Warm-up epochs work on features that are kept, and take next to nothing beside those of the training proper.
WARM_UP_SHARE = 0.1
REMEMBERED = 5  # epochs of a kind, whose mean duration is that of those to come
OF_FOLD = re.compile(r"Fold (\d+) of (\d+): (.*)")
OF_EPOCH = re.compile(r"Training, epoch (\d+) of (\d+)")


class Course:
    """How far a training is: the state in words, the part of the whole work that is done, and the time that is left.

    `warm_up` and `training` are the epochs of the phases, 0 for one that the method does not have. After `budget`
    seconds the work ends in any case.
    """

    def __init__(
        self,
        *,
        warm_up: int,
        training: int,
        folds: int = 1,
        budget: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._epochs = {"warm-up": warm_up, TRAINING: training}
        self._folds, self._clock = max(1, folds), clock
        self._ends = None if budget is None else clock() + budget
        self._spent = {name: deque[float](maxlen=REMEMBERED) for name in self._epochs}
        self._fold, self._done, self._within = 1, dict.fromkeys(self._epochs, 0), 0.0
        # When the last epoch of this fold ended.
        self._at: float | None = None
        self._known = False
        self._heard: tuple[str, int] | None = None
        self._worked = False
        self.words = _("Starting the engine")

    def progressed(self, note: ProgressNote) -> None:
        """The worker goes on; a note that says the same again changes nothing."""
        if (note.step, note.done) == self._heard:
            return
        self._heard, self._worked = (note.step, note.done), True
        step = note.step
        found = OF_FOLD.fullmatch(step)
        if found:
            self._reach_fold(int(found[1]))
            step = found[3]
        epoch = OF_EPOCH.fullmatch(step)
        if epoch:
            self._within = note.done / note.total if note.total and int(epoch[1]) == self._done[TRAINING] + 1 else 0.0
            self.words = self._of_fold(_epoch_words(TRAINING, int(epoch[1]), int(epoch[2])))
        else:
            counted = _(" ({done} of {total})").format(done=note.done, total=note.total) if note.total > 1 else ""
            self.words = self._of_fold(step + counted)

    def epoch_ended(self, note: EpochNote) -> None:
        """An epoch ended."""
        now = self._clock()
        self._reach_fold(note.fold or 1)
        # Past epochs of a training that goes on are told again at once, which says nothing about those to come.
        if self._at is not None and (self._worked or note.phase != TRAINING):
            self._spent[note.phase].append(now - self._at)
        self._at, self._within, self._worked, self._known = now, 0.0, False, True
        self._epochs[note.phase] = note.epochs
        if note.phase == TRAINING:
            # What came before it is over, however it was cut short.
            self._done["warm-up"] = self._epochs["warm-up"]
        self._done[note.phase] = note.epoch
        self.words = self._of_fold(_epoch_words(note.phase, note.epoch, note.epochs))

    @property
    def fraction(self) -> float | None:
        """The part of the whole work that is done; None before anything is known of it."""
        if not self._known:
            return None
        warm_up = self._share("warm-up", 0.0)
        training = self._share(TRAINING, self._within)
        if not self._epochs[TRAINING]:
            fold = warm_up
        else:
            share = WARM_UP_SHARE if self._epochs["warm-up"] else 0.0
            fold = share * warm_up + (1 - share) * training
        return min(1.0, (self._fold - 1 + fold) / self._folds)

    @property
    def seconds_left(self) -> float | None:
        """What the epochs to come will take; None as long as none of their kind has been timed."""
        last = TRAINING if self._epochs[TRAINING] else "warm-up"
        if not self._spent[last]:
            return None
        left = 0.0
        for name, count in self._epochs.items():
            spent = self._spent[name]
            mean = sum(spent) / len(spent) if spent else 0.0
            here = count - self._done[name] - (self._within if name == TRAINING else 0.0)
            left += mean * (here + count * (self._folds - self._fold))
        if self._ends is not None:
            left = min(left, self._ends - self._clock())
        return max(0.0, left)

    def _share(self, phase: str, within: float) -> float:
        count = self._epochs[phase]
        return min(1.0, (self._done[phase] + within) / count) if count else 0.0

    def _reach_fold(self, fold: int) -> None:
        if fold != self._fold:
            self._fold, self._done, self._within = fold, dict.fromkeys(self._epochs, 0), 0.0
            # Its cases are embedded before its first epoch, which is no epoch's time.
            self._at = None

    def _of_fold(self, words: str) -> str:
        if self._folds == 1:
            return words
        return _("{what}, fold {fold} of {folds}").format(what=words, fold=self._fold, folds=self._folds)


def _epoch_words(phase: str, epoch: int, epochs: int) -> str:
    words = _("Training, epoch {n} of {count}") if phase == TRAINING else _("Warm-up, epoch {n} of {count}")
    return words.format(n=epoch, count=epochs)


def left_words(seconds: float | None) -> str:
    """The time that is left; empty where it is not known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return _("a moment left")
    return _("{duration} left").format(duration=duration_words(seconds / 60))


def duration_words(minutes: float) -> str:
    """Minutes as a person says them."""
    if minutes < 1:
        return _("less than a minute")
    if round(minutes) == 1:
        return _("about a minute")
    if minutes < 120:
        return _("about {n} minutes").format(n=round(minutes))
    return _("about {n} hours").format(n=round(minutes / 60))


def estimate_words(estimate: Mapping[str, Any]) -> str:
    """What a training will take, and a warning where there is no memory for it."""
    words = _("{time}, {memory} of memory (of {free} free)").format(
        time=duration_words(estimate["minutes"]),
        memory=_memory_words(estimate["memory_bytes"]),
        free=_memory_words(estimate["available_bytes"]),
    )
    if estimate["fits"]:
        return words
    advice = _("This may not fit into memory: choose smaller or fewer slices, or close other programs.")
    return f"{words}. {advice}"


def _memory_words(count: int) -> str:
    gigabytes = count / GIGABYTE
    number = f"{gigabytes:.0f}" if gigabytes >= 10 else f"{gigabytes:.1f}"
    return _("{number} GB").format(number=number)


def figures_words(figures: Mapping[str, Any]) -> str:
    """The AUC of the held-out cases with its interval; empty where there is none."""
    auc = figures.get("auc") or {}
    if auc.get("value") is None:
        return ""
    if auc.get("low") is None or auc.get("high") is None:
        return _("AUC {value}").format(value=f"{auc['value']:.2f}")
    return _("AUC {value} ({low} to {high})").format(
        value=f"{auc['value']:.2f}", low=f"{auc['low']:.2f}", high=f"{auc['high']:.2f}"
    )


def end_words(answer: Mapping[str, Any]) -> str:
    """That a training has ended, and how good its plugin is."""
    ended = _("Stopped early") if answer.get("stopped_early") else _("Finished")
    figures = figures_words(answer.get("figures", {}))
    if not figures:
        return f"{ended}."
    return _("{ended}: {figures} on held-out cases.").format(ended=ended, figures=figures)


def hard_row(case: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Of a hard case: its name, its truth, the answer and that answer's probability.

    Of a multilabel task the class is told of which the answer is most wrong.
    """
    probabilities, target = case["probabilities"], case["target"]
    if not isinstance(target, Mapping):
        answer = max(probabilities, key=probabilities.get)
        return case["case"], str(target), answer, f"{probabilities[answer]:.2f}"
    known = {name: value for name, value in target.items() if value is not None}
    name = max(known, key=lambda one: abs(known[one] - probabilities[one]))
    probability = probabilities[name]
    answer = probability >= 0.5
    of_answer = probability if answer else 1 - probability
    return case["case"], _with_no(name, bool(known[name])), _with_no(name, answer), f"{of_answer:.2f}"


def _with_no(name: str, has: bool) -> str:
    return name if has else _("no {finding}").format(finding=name)
