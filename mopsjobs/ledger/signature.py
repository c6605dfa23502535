"""Signatures of errors: equal for attempts that failed for the same reason, whatever numbers their messages hold."""

from __future__ import annotations

import hashlib
import re

from mopsjobs.ledger.attempt import MAX_MESSAGE_CHARACTERS, AttemptError

MAX_NORMALISED = 2_000
"""Characters of a message that count. The first ones name the reason; an array may follow."""

_PATTERNS = (
    # Times come before numbers, and ids before both.
    (r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "<id>"),
    (r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)?(?:Z|[+-]\d\d:?\d\d)?", "<time>"),
    (r"\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?\b", "<time>"),
    (r"\b0[xX][0-9a-fA-F]+\b", "<address>"),
    # Directories: an absolute path, one from home or from here, or one with two separators. The name stays.
    (r"(?<![\w/])(?:[A-Za-z]:|~|\.{1,2})?[/\\](?:[^\s/\\'\"<>|:,;()]+[/\\])*(?=[^\s/\\'\"<>|:,;()])", "…/"),
    # It begins where its first name does: from each dot of a line of dots, the time would grow with its square.
    (r"(?<![\w/….-])[\w.-]+/(?:[\w.-]+/)+(?=[\w.-])", "…/"),
    # A quoted text with digits names one thing among many.
    (r"'[^'\s]{0,200}\d[^'\s]{0,200}'", "'<id>'"),
    (r'"[^"\s]{0,200}\d[^"\s]{0,200}"', '"<id>"'),
    (r"\b(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b", "<id>"),
    (r"(?<![\w.])[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", "#"),
    (r"\d+", "#"),
    # As many numbers as there are in an array.
    (r"#(?:[,;]?\s+#|[,;]#)+", "#, …"),
)

_COMPILED = [(re.compile(pattern), mark) for pattern, mark in _PATTERNS]


def normalise(message: str) -> str:
    """Return a message with marks in place of what differs between tasks: numbers, ids, times, addresses, directories.

    `beta=0.93 is above 0.9 in /data/run-17/in.csv` becomes `beta=# is above # in …/in.csv`.
    """
    text = message[:MAX_NORMALISED]
    for pattern, mark in _COMPILED:
        text = pattern.sub(mark, text)
    return text


def error_signature(kind: str, where: str | None, message: str) -> str:
    """Return the signature of an error, as 12 hexadecimal digits.

    Args:
        kind: the name of the exception.
        where: `FILE:LINE` of the innermost line of the model's own code, or `cell NAME:LINE`.
        message: the message.
    """
    text = "\0".join((kind, where or "", normalise(message)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def attempt_error(kind: str, where: str | None, message: str) -> AttemptError:
    """Return the error of an attempt, with its signature. Arguments: see `error_signature`."""
    return AttemptError(error_signature(kind, where, message), kind, where, message[:MAX_MESSAGE_CHARACTERS])
