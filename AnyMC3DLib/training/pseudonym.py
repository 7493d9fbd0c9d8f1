"""Names for patients that tell nobody who they are. Needs the standard library alone."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata

from ..errors import InputError

KEY_BYTES = 32
DIGITS = 12  # with 8, one in a hundred data sets of ten thousand patients would take two of them for one


def new_key() -> bytes:
    """A random key for `pseudonym`.

    It stays with the user's settings and never goes into the data set: who has it can try out names.
    """
    return secrets.token_bytes(KEY_BYTES)


def pseudonym(identity: str, *, key: bytes, prefix: str = "patient") -> str:
    """The pseudonym of a patient, as `patient-7f3a9c21d04e`: HMAC-SHA256 (RFC 2104) of the identity under the key.

    `identity` is a DICOM patient's ID, or a name where there is none. Upper and lower case, blanks and DICOM's carets
    make no difference, so that one patient of two archives stays one. The key stays with the user's settings and never
    goes into the data set. Raises InputError for an identity or a key that is empty.
    """
    plain = _plain(identity)
    if not plain:
        raise InputError("A patient without a name or a number can have no pseudonym: give one of them.")
    if not key:
        raise InputError("A pseudonym without a key could be guessed: make a key first.")
    digest = hmac.new(key, plain.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
    return f"{prefix}-{digest[:DIGITS]}"


def _plain(identity: str) -> str:
    # An accent is one character or two, depending on the machine that typed it.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", identity).casefold())
    return " ".join(folded.replace("^", " ").split())
