"""The bundle: the code of a model as one archive, named by the sha256 of its bytes, so that it is stored once.

    bundles/sha256/<digest>    a tar.gz of regular files and links

The archive is the same for the same files, whatever their times, owners, umask and order: of the mode only the
executable bit is kept. (Its bytes come from zlib; one that compresses otherwise gives another digest, and the code is
then stored once more, which does no harm.)

What goes in: what git would list, by the `.gitignore` of each directory and of those above it in the same repository;
`.modelopsignore` has the same rules and the last word, so that `!data/` brings back what git ignores. Never `.git`,
never `.mops-jobs.toml` and the files it names (a registry beside the study holds the bundles, and grows with each),
never a virtual environment (it is bound to its machine), no empty directories; and, unless a rule brings them back,
none of `LEFT_OUT` and `SECRETS`. `.modelops/manifest.json` is always in.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Protocol

from mopsjobs.bundles.extraction import BundleError, extract
from mopsjobs.bundles.packing import PackedBundle
from mopsjobs.errors import UsageError
from mopsjobs.store.base import Versioned, VersionedStore
from mopsjobs.utils.files import directory_lock, make_directory, sync_directory

UNPACKING = ".unpacking"
"""Where a bundle is unpacked, beside where it belongs."""


_REF = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)


class Readable(Protocol):
    """As much of a store as unpacking needs."""

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""


def parse_bundle_ref(text: str) -> str:
    """Return `text` if it names a bundle.

    Raises:
        UsageError: it does not; says what it should be.
    """
    if _REF.fullmatch(text) is None:
        raise UsageError(f"A bundle is named sha256: and 64 digits of 0-9 and a-f, not {text[:100]!r}.")
    return text


def bundle_key(ref: str) -> str:
    """Where a bundle lies in the store.

    Raises:
        UsageError: `ref` names no bundle.
    """
    return "bundles/sha256/" + parse_bundle_ref(ref).removeprefix("sha256:")


def store_bundle(store: VersionedStore, packed: PackedBundle) -> bool:
    """Store a bundle, once. True if it was not there before.

    Raises:
        StoreError: the store cannot take it, or does not answer.
    """
    # A look costs one small request; finding out by sending it would cost the whole bundle.
    if has_bundle(store, packed.digest):
        return False
    packed.archive.seek(0)
    return store.create_if_absent(bundle_key(packed.digest), packed.archive.read()) is not None


def has_bundle(store: VersionedStore, ref: str) -> bool:
    """Whether the store has this bundle.

    Raises:
        StoreError: it does not answer.
        UsageError: `ref` names no bundle.
    """
    key = bundle_key(ref)
    return next(iter(store.list_keys(key)), None) == key


def extract_bundle(store: Readable, ref: str, into: Path) -> Path:
    """Unpack a bundle into a directory of its own below `into`, and return that. One that is there already is used.

    Only its owner may read it. Several may do this at once: one unpacks it, and the others wait and use its.

    Raises:
        StoreError: the store does not answer.
        BundleError: the bundle is not there, is damaged, or holds what no bundle may: a path or a link that leads out,
            anything but files, links and directories, more than `MAX_FILES` of them, more than `MAX_UNPACKED_BYTES`.
        UsageError: `ref` names no bundle.
    """
    key = bundle_key(ref)
    target = into / key.rpartition("/")[2]
    if target.is_dir():
        return target
    found = store.get(key)
    if found is None:
        raise BundleError(f"The bundle {ref} is not in the store.")
    if hashlib.sha256(found.value).hexdigest() != target.name:
        raise BundleError(f"The bundle {ref} is damaged: its bytes are not those that it was named by.")
    try:
        make_directory(into)
        with directory_lock(str(into)):
            if not target.is_dir():  # else somebody else was faster
                _unpack_whole(found.value, target)
    except (BundleError, OSError) as error:
        raise BundleError(f"The bundle {ref} cannot be unpacked into {into}: {error}.") from None
    return target


def _unpack_whole(value: bytes, target: Path) -> None:
    """Unpack an archive into a directory that is there whole or not at all. The caller holds the lock."""
    beside = target.with_name(UNPACKING)
    shutil.rmtree(beside, ignore_errors=True)  # of somebody who was killed half-way
    beside.mkdir(mode=0o700)
    try:
        extract(value, str(beside))
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sync_directory(str(target))
