"""Numbers of the command line, as argparse takes them: what is none of them is a wrong use."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def seed(text: str) -> int:
    """A seed."""
    number = int(text)
    if not 0 <= number < 1 << 32:
        raise argparse.ArgumentTypeError("a seed lies within 0 to 4294967295")
    return number


def at_least(least: int) -> Callable[[str], int]:
    """Whole numbers from `least` on."""

    def number(text: str) -> int:
        found = int(text)
        if found < least:
            raise argparse.ArgumentTypeError(f"a number of at least {least}")
        return found

    return number
