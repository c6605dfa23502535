"""A versioned store in a directory: a file per value, which appears whole. For a writer that other machines read.

Nothing is ever changed in place. A value is written to a file of its own, which then gets its name. So a reader on
another machine sees a whole value or none, also on NFS, where it may see it late. The lock of a writer is that of the
directory. On a network file system, it holds on one machine alone: all writers of a directory have to be there.
See docs/decisions/0088-a-drop-of-files.md.

The path of `a/b` is `da/fb`: a key may be the beginning of another one, and a directory has another name than a file.
A long segment is in several directories, all but the last one of which begin with `c`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from stat import S_ISREG

from mopsjobs.errors import InvalidKeyError, StoreAccessError, StoreError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.store.base import MAX_KEY_BYTES, Entry, Versioned, VersionToken, WantsValues, always, check_key
from mopsjobs.utils.files import FILE_FLAGS, NO_WAIT, directory_lock, make_directory, private_opener, sync_directory
from mopsjobs.utils.user_dirs import trusted_owners

MAX_PIECE = 60
"""Characters of a key in one name. File systems allow 255 bytes, and a character has up to four."""

MAX_VALUE_BYTES = 256 * 2**20
"""Of a value that is read, as in the other stores."""

PART = "p"
"""Begins the name of a file whose value has no key yet."""

_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP)

_FULL = (errno.ENOSPC, errno.EDQUOT)


class DirectoryVersionedStore:
    """The contract of `VersionedStore` over a directory, which the first write creates for its owner alone.

    A version is the time of the write, which no two files of a writer share, and the number of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Set the path, and open nothing."""
        self.path = os.path.abspath(os.fspath(path))
        self.location = self.path
        self.left_out: list[str] = []
        """Paths that the last listing met and that hold no value, such as links, pipes and files of other users."""
        self._last_ns = 0
        self._closed = False

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""
        path = self._path_of(key)
        with self.translate_errors(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                return _read(path)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                return _read(path)  # NFS: another machine has replaced the file since its name was looked up
        return None

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """See `VersionedStore.put`."""
        path = self._path_of(key)
        with self.translate_errors():
            if not os.path.isdir(self.path):
                return None
            with self._part(value) as part, directory_lock(self.path):
                found = _stat(path)
                return None if found is None or _version(found) != version else self._name(part, path)

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`."""
        path = self._path_of(key)
        with self.translate_errors():
            if _stat(path) is not None:
                return None
            make_directory(os.path.dirname(path))
            with self._part(value) as part, directory_lock(self.path):
                return None if _stat(path) is not None else self._name(part, path)

    def delete(self, key: str) -> bool:
        """See `VersionedStore.delete`."""
        path = self._path_of(key)
        with self.translate_errors(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
            return True
        return False

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list_keys`."""
        return (entry.key for entry in self.scan(prefix))

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`. No entry carries its value, as that would open its file."""
        self._check_open()
        folder = prefix.rpartition("/")[0]
        self.left_out = []
        with self.translate_errors():
            below = os.path.join(self.path, *_directories(folder)) if folder else self.path
            found = sorted(_files_below(below, f"{folder}/" if folder else "", self.left_out))
        for key, path in found:
            if not (key.startswith(prefix) and key > after):
                continue
            with self.translate_errors():
                stat = _stat(path)
            if stat is None:
                continue
            if _is_own_file(stat) and self._has_path(key, path):
                yield Entry(key, _version(stat), None, stat.st_size)
            else:
                self.left_out.append(path)

    def _has_path(self, key: str, path: str) -> bool:
        """Return whether the value of a key lies there. Another program may have made the file."""
        try:
            return self._path_of(key) == path
        except InvalidKeyError:
            return False

    def remove_parts(self) -> None:
        """Remove the files that killed writers left before they had a key. No writer may be at work."""
        with self.translate_errors(), contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.path):
                if name.startswith(PART):
                    os.unlink(os.path.join(self.path, name))

    def close(self) -> None:
        """See `VersionedStore.close`. There is nothing to release."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"The store {self.path} is closed.")

    def _path_of(self, key: str) -> str:
        self._check_open()
        folder, _, name = check_key(key).rpartition("/")
        return os.path.join(self.path, *_directories(folder), *_pieces(name, "f"))

    @contextlib.contextmanager
    def _part(self, value: bytes) -> Iterator[str]:
        """Yield the path of a file with a value, which is on disk. It is removed if it gets no name."""
        part = os.path.join(self.path, PART + secrets.token_hex(8))
        try:
            with open(part, "wb", opener=private_opener) as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            yield part
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    def _name(self, part: str, path: str) -> VersionToken:
        """Give a file its name, and return its version. The caller holds the lock."""
        # The clock of a file system may stand for milliseconds, in which a file can get the number of a removed one.
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        os.utime(part, ns=(self._last_ns, self._last_ns))
        version = _version(os.stat(part))
        os.replace(part, path)
        sync_directory(path)
        return version

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn the errors of the system into those of the contract."""
        try:
            yield
        except OSError as error:
            where = f"the directory {self.path}"
            if error.errno == errno.ENAMETOOLONG:
                raise InvalidKeyError(f"A key is too long for {where}.") from error
            if error.errno in _REFUSALS:
                raise StoreAccessError(f"Not allowed to use {where}: {error.strerror}.") from error
            if error.errno in _FULL:
                raise StoreUnavailableError(f"There is no room in {where}: {error.strerror}.", sent=False) from error
            raise StoreUnavailableError(f"The disk refused to serve {where}: {error}.") from error


def _pieces(segment: str, kind: str) -> list[str]:
    """Return the names of the directories, or of the directories and the file, of a segment of a key."""
    *pieces, last = (segment[start : start + MAX_PIECE] for start in range(0, len(segment), MAX_PIECE))
    return [*(f"c{piece}" for piece in pieces), kind + last]


def _directories(folder: str) -> list[str]:
    return [name for segment in folder.split("/") for name in _pieces(segment, "d")] if folder else []


def _files_below(directory: str, start: str, left_out: list[str]) -> Iterator[tuple[str, str]]:
    """Yield key and path of each file below a directory, in any order. No link is followed.

    Args:
        directory: the directory.
        start: begins each key.
        left_out: takes the paths of what is neither a file nor a directory of a key.
    """
    waiting = [(directory, start)]
    while waiting:
        directory, start = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                found = [(entry.name, entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            left_out.append(directory)
            continue
        for name, path, is_directory in found:
            kind, key = name[:1], start + name[1:]
            if kind == "f":
                yield key, path
            elif kind in ("c", "d") and is_directory and len(os.fsencode(key)) < MAX_KEY_BYTES:
                waiting.append((path, f"{key}/" if kind == "d" else key))
            elif kind in ("c", "d"):
                left_out.append(path)


def _read(path: str) -> Versioned | None:
    """Return the value of a file; None while it is written in place, which no writer of values does."""
    with open(path, "rb", opener=_open_own) as file:
        before = os.fstat(file.fileno())
        if before.st_size > MAX_VALUE_BYTES:
            raise ValueTooLargeError(f"{path} has {before.st_size} bytes; at most {MAX_VALUE_BYTES} are read.")
        value = file.read(before.st_size + 1)
        is_whole = len(value) == before.st_size and _version(os.fstat(file.fileno())) == _version(before)
        return Versioned(value, _version(before)) if is_whole else None


def _open_own(path: str, flags: int) -> int:
    """Open a file of this user or of root, without waiting for a pipe. An opener for `open`."""
    file = os.open(path, flags | FILE_FLAGS | NO_WAIT)
    if _is_own_file(os.fstat(file)):
        return file
    os.close(file)
    raise PermissionError(errno.EPERM, f"{path} is not a file of this user")


def _is_own_file(stat: os.stat_result) -> bool:
    """Return whether it is a file of this user or of root. Another user could choose what runs."""
    return S_ISREG(stat.st_mode) and stat.st_uid in trusted_owners()


def _version(stat: os.stat_result) -> VersionToken:
    return VersionToken(f"{stat.st_mtime_ns}-{stat.st_ino}")


def _stat(path: str) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return os.stat(path, follow_symlinks=False)
    return None
