"""Marked secrets, the forms in which each may come out, and every place of a run where one may."""

from __future__ import annotations

import base64
import contextlib
import gzip
import re
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mopsjobs.store.base import VersionedStore

ACCOUNT = "markedaccount"
ACCOUNT_KEY = base64.b64encode(b"marked/account+key" * 4).decode()
"""Valid for the Azurite of these tests."""
OTHER_KEY = base64.b64encode(b"another+marked/key" * 4).decode()
"""Valid nowhere."""
WORD = "marked-pass/word+with=signs"
"""Any other secret: a password, a token, a signature."""
SAS = f"sv=2024-11-04&ss=b&srt=sco&sp=rl&se=2099-01-01&sig={quote(WORD, safe='')}"


def _forms(secret: bytes) -> set[bytes]:
    text = secret.decode("latin-1")
    forms = {secret, quote(text, safe="").encode(), quote_plus(text).encode(), quote(text).encode()}
    # As base64 inside of a longer text it begins at one of three places; we look for what no neighbour changes.
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret)
        forms.add(encoded[4 if before else 0 : len(encoded) // 4 * 4 - 4])
    forms.add(secret.hex().encode())
    return {form.lower() for form in forms}


FORMS = {
    name: _forms(secret.encode()) | (_forms(base64.b64decode(secret)) if name.endswith("key") else set())
    for name, secret in {"account key": ACCOUNT_KEY, "other key": OTHER_KEY, "word": WORD}.items()
} | {"signature": {b"sig="}}


def seen(data: bytes | str) -> set[str]:
    """Return the names of the secrets that are in there in some form, in compressed parts too."""
    data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return {name for part in _parts(data) for name, forms in FORMS.items() if any(form in part for form in forms)}


def _parts(data: bytes) -> Iterator[bytes]:
    yield data.lower()
    for found in re.finditer(re.escape(b"\x1f\x8b\x08"), data):
        with contextlib.suppress(zlib.error, EOFError, gzip.BadGzipFile):
            yield zlib.decompressobj(31).decompress(data[found.start() :], 1 << 24).lower()


def seen_in_files(top: Path, but: Iterable[Path] = ()) -> dict[str, set[str]]:
    """Return the files below a directory that hold a secret, in content, name or link, with the secrets."""
    excepted = set(but)
    found = {}
    for path in top.rglob("*"):
        if path in excepted or path.is_dir():
            continue
        with contextlib.suppress(FileNotFoundError):  # a WAL that is gone by now
            content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
            if names := seen(content) | seen(path.name):
                found[str(path)] = names
    return found


def seen_in_store(store: VersionedStore) -> dict[str, set[str]]:
    """Return the keys of a store under which there is a secret, with the secrets."""
    found = {}
    for key in store.list_keys():
        value = store.get(key)
        if value is not None and (names := seen(value.value) | seen(key)):
            found[key] = names
    return found


class Arguments(threading.Thread):
    """Reads the arguments of all processes, over and over, for the time of a block. Many live for 30 ms alone."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._end = threading.Event()
        self.found: set[bytes] = set()

    def run(self) -> None:
        while not self._end.wait(0.005):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.found.add(path.read_bytes())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()
