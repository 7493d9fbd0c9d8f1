"""Pseudonyms: the same patient has one, nobody can tell who it is, and nothing but the standard library is needed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.training.pseudonym import new_key, pseudonym

KEY = bytes(range(32))


def test_a_patient_has_the_same_pseudonym_each_time_and_another_under_another_key() -> None:
    assert pseudonym("4711", key=KEY) == pseudonym("4711", key=KEY)
    assert pseudonym("4711", key=KEY) != pseudonym("4711", key=KEY[::-1])
    assert pseudonym("4711", key=KEY) != pseudonym("4712", key=KEY)


def test_a_pseudonym_is_the_same_in_a_year() -> None:
    # From `printf 'doe jane' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...1f`.
    assert pseudonym("Doe^Jane", key=KEY) == "patient-307c011d1688"


@pytest.mark.parametrize(
    "written", ["doe jane", "DOE^JANE", " Doe^Jane ", "Doe^Jane^^^", "doe  jane", "Doe\tJane", "^Doe^^Jane\n"]
)
def test_case_blanks_and_carets_make_no_difference(written: str) -> None:
    assert pseudonym(written, key=KEY) == pseudonym("Doe^Jane", key=KEY)


def test_an_accent_is_the_same_whether_it_is_one_character_or_two() -> None:
    assert pseudonym("M\u00fcller", key=KEY) == pseudonym("Mu\u0308ller", key=KEY)


def test_words_that_are_apart_are_not_those_that_are_together() -> None:
    assert pseudonym("Doe^Jane", key=KEY) != pseudonym("DoeJane", key=KEY)


def test_a_pseudonym_is_a_prefix_and_hexadecimal_digits_without_the_name() -> None:
    assert re.fullmatch(r"patient-[0-9a-f]{8,16}", pseudonym("Doe^Jane", key=KEY))
    assert re.fullmatch(r"subject-[0-9a-f]{8,16}", pseudonym("Doe^Jane", key=KEY, prefix="subject"))


def test_twenty_thousand_patients_have_as_many_pseudonyms() -> None:
    assert len({pseudonym(str(number), key=KEY) for number in range(20_000)}) == 20_000


@pytest.mark.parametrize("nobody", ["", "  ", "^^^^", "\t^ "])
def test_an_empty_identity_is_refused(nobody: str) -> None:
    with pytest.raises(InputError, match="without a name or a number"):
        pseudonym(nobody, key=KEY)


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(InputError, match="without a key"):
        pseudonym("Doe^Jane", key=b"")


def test_keys_are_long_and_no_two_are_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {32}


def test_the_standard_library_is_enough() -> None:
    program = (
        "import sys, AnyMC3DLib.training.pseudonym\n"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'SimpleITK', 'torch', 'monai', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
