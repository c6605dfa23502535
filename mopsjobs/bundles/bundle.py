"""The bundle: the code of a model as one archive, named by the SHA-256 of its bytes, so that it is stored once.

    bundles/sha256/<digest>    a tar.gz of regular files and links

The same files give the same archive, whatever their times, owners, umask and order. Of the mode only the executable bit
is kept. (Another version of zlib may compress otherwise and give another digest. The code is then stored once more,
which does no harm.)

A bundle has the files that git would list, by the `.gitignore` of each directory and of those above it in the same
repository. `.modelopsignore` has the same rules and the last word: `!data/` brings back what git ignores. Unless a rule
brings them back, `LEFT_OUT` and `SECRETS` stay out. What is always packed: `ALWAYS_IN`. Never packed are:

- `.git` and empty directories
- `.mops-jobs.toml` and the files it names: a registry beside the study holds the bundles, and grows with each
- virtual environments, which are bound to their machine
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from mopsjobs.bundles.extraction import BundleError, extract
from mopsjobs.bundles.packing import PackedBundle, read_archive
from mopsjobs.errors import UsageError
from mopsjobs.registry.keys import BUNDLE
from mopsjobs.store.base import ReadableStore, VersionedStore
from mopsjobs.utils.files import directory_lock, make_directory, sync_directory

UNPACKING = ".unpacking"
"""The directory in which a bundle is unpacked, before it gets its own name."""

_BUNDLE_REF = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)


def parse_bundle_ref(text: str) -> str:
    """Return `text` if it names a bundle.

    Raises:
        UsageError: if it does not.
    """
    if _BUNDLE_REF.fullmatch(text) is None:
        raise UsageError(f"invalid bundle {text[:100]!r}: expected sha256: and 64 digits of 0-9 and a-f.")
    return text


def bundle_key(ref: str) -> str:
    """Return the key of a bundle in the store.

    Raises:
        UsageError: if `ref` names no bundle.
    """
    return BUNDLE.key(bundle=parse_bundle_ref(ref).removeprefix("sha256:"))


def store_bundle(store: VersionedStore, packed: PackedBundle) -> bool:
    """Store a bundle, once. It costs one small request if the bundle is there already.

    Returns:
        True if it was not there before.

    Raises:
        StoreError: if the store cannot take it, or does not answer.
    """
    # A listing is one small request; an attempt to create it would send the whole bundle.
    if has_bundle(store, packed.digest):
        return False
    return store.create_if_absent(bundle_key(packed.digest), read_archive(packed)) is not None


def has_bundle(store: VersionedStore, ref: str) -> bool:
    """Return True if the store has this bundle. It costs one request.

    Raises:
        StoreError: if the store does not answer.
        UsageError: if `ref` names no bundle.
    """
    key = bundle_key(ref)
    return next(iter(store.list_keys(key)), None) == key


def load_bundle(store: ReadableStore, ref: str) -> bytes:
    """Return the archive of a bundle.

    Raises:
        StoreError: if the store does not answer.
        BundleError: if the bundle is not there, or its bytes are not those that `ref` names.
        UsageError: if `ref` names no bundle.
    """
    key = bundle_key(ref)
    found = store.get(key)
    if found is None:
        raise BundleError(f"The bundle {ref} is not in the store.")
    if hashlib.sha256(found.value).hexdigest() != key.rpartition("/")[2]:
        raise BundleError(f"The bundle {ref} is damaged: its bytes do not have the digest in its name.")
    return found.value


def extract_bundle(store: ReadableStore, ref: str, into: Path) -> Path:
    """Unpack a bundle into a directory of its own below `into`, and return that. An existing one is used.

    Only its owner may read it. Concurrent calls are safe: one unpacks, and the others wait and use its directory.

    Raises:
        StoreError: if the store does not answer.
        BundleError: if the bundle does not exist, is damaged, or has content that `extract` forbids.
        UsageError: if `ref` names no bundle.
    """
    target = into / bundle_key(ref).rpartition("/")[2]
    if target.is_dir():
        return target
    value = load_bundle(store, ref)
    try:
        make_directory(into)
        with directory_lock(str(into)):
            if not target.is_dir():  # else another process was faster
                _unpack_whole(value, target)
    except (BundleError, OSError) as error:
        raise BundleError(f"The bundle {ref} cannot be unpacked into {into}: {error}.") from None
    return target


def _unpack_whole(value: bytes, target: Path) -> None:
    """Unpack an archive into a directory that appears whole or not at all. The caller holds the lock."""
    draft = target.with_name(UNPACKING)
    shutil.rmtree(draft, ignore_errors=True)  # left by a killed process
    draft.mkdir(mode=0o700)
    try:
        extract(value, str(draft))
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_directory(str(target))
