"""Pack a directory as a bundle: which files go in, and an archive that is the same for the same files."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from mopsjobs.bundles.extraction import MAX_FILES, MAX_UNPACKED_BYTES, leads_outside
from mopsjobs.bundles.ignore import rules_above
from mopsjobs.errors import UsageError

MAX_PACKED_BYTES = 256 * 2**20
"""What every store takes as one value; held against mopsjobs/store/azure/store.py by a test."""


MAX_SHOWN = 10


LEFT_OUT = (
    "__pycache__/",
    "*.pyc",
    ".ipynb_checkpoints/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".DS_Store",
)
"""What tools leave behind and make again: nobody wants it in a bundle, and it would change its digest."""


SECRETS = (
    ".env", ".env.*", "!.env.example", "!.env.sample", "!.env.template",
    ".netrc", ".pgpass", ".pypirc", ".git-credentials", ".aws/", ".azure/", ".kube/", ".ssh/",
    "id_rsa", "id_ecdsa", "id_ed25519", "*.pem", "*.p12", "*.pfx",
)  # fmt: skip
"""Where secrets are kept, by the names that their tools give them. A bundle is for all who may read the registry, and
stays there: so these are left out, and whoever packs is told, unless a rule of the user's own decides about them."""


ALWAYS_IN = ".modelops/manifest.json"


NEVER_IN = (".git", ".mops-jobs.toml")
"""Of these names nothing is packed: they are about the directory, not about the model."""


class PackedBundle(NamedTuple):
    """A bundle on its way to the store. Close it, or use it as a context: its temporary file vanishes then."""

    archive: BinaryIO
    digest: str
    """`sha256:<hex>` of the archive's bytes: the bundle's name."""
    files: int
    bytes: int
    """The size of the archive."""
    names: frozenset[str] = frozenset()
    """Of the files, relative to what was packed, with slashes."""
    withheld: tuple[str, ...] = ()
    """What was left out as one of `SECRETS`, a directory with a slash at its end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file."""
        self.archive.close()


def pack(
    directory: Path, *, leave_out: Collection[str] = (), on_progress: Callable[[int], None] | None = None
) -> PackedBundle:
    """Pack a directory, in memory that does not grow with the size of its files.

    Args:
        directory: what to pack.
        leave_out: paths of files that stay out, whatever the rules say: those that the program itself writes.
        on_progress: called now and then with the bytes of files packed so far.

    Raises:
        UsageError: it holds links that lead out, or things that are neither file, link nor directory (all are named);
            it has nothing to pack, more than `MAX_FILES` files, more than `MAX_UNPACKED_BYTES`, or packs to more than
            `MAX_PACKED_BYTES`; or something in it cannot be read.
    """
    withheld: list[str] = []
    try:
        found = sorted(
            _found(os.path.abspath(directory), leave_out, withheld.append), key=lambda one: os.fsencode(one.name)
        )
        _refuse(directory, found)
        with contextlib.ExitStack() as undo:
            archive = undo.enter_context(tempfile.TemporaryFile())
            hashing = _HashingWriter(archive)
            _write(found, hashing, on_progress or (lambda count: None))
            undo.pop_all()
    except OSError as error:
        raise UsageError(f"The directory {directory} cannot be packed: {error}.") from None
    digest = f"sha256:{hashing.sha256.hexdigest()}"
    names = frozenset(one.name for one in found)
    return PackedBundle(archive, digest, len(found), hashing.count, names, tuple(sorted(withheld)))


class _File(NamedTuple):
    name: str
    """Relative to what is packed, with slashes."""
    path: str
    mode: int
    size: int
    leads_out: bool


def _refuse(directory: Path, found: list[_File]) -> None:
    for problem, names in (
        ("links that lead out of it", [one.name for one in found if one.leads_out]),
        (
            "what is neither file nor link",
            [one.name for one in found if not (stat.S_ISREG(one.mode) or stat.S_ISLNK(one.mode))],
        ),
    ):
        if names:
            more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
            shown = ", ".join(repr(name) for name in names[:MAX_SHOWN])
            raise UsageError(
                f"The directory {directory} cannot be packed, for it holds {problem}: {shown}{more}.",
                hint="Name them in .modelopsignore to leave them out.",
            )
    if not found:
        raise UsageError(f"The directory {directory} has nothing to pack.")
    if sum(one.size for one in found) > MAX_UNPACKED_BYTES:
        raise _too_much(f"{MAX_UNPACKED_BYTES // 2**20} MiB")


def _too_much(limit: str) -> UsageError:
    return UsageError(
        f"A bundle has at most {limit}, and this directory has more.",
        hint="Name what the model does not need in .modelopsignore to leave it out.",
    )


def _write(found: list[_File], out: _HashingWriter, on_progress: Callable[[int], None]) -> None:
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done)

    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0) as packed,
        tarfile.open(
            fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
        ) as tar,
    ):
        for one in found:
            member = tarfile.TarInfo(one.name)  # time, owner and group are 0 and nobody's
            if stat.S_ISLNK(one.mode):
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(one.path), 0o777
                tar.addfile(member)
                continue
            with open(one.path, "rb", opener=_open_no_link) as file:
                status = os.fstat(file.fileno())
                member.size, member.mode = status.st_size, 0o755 if status.st_mode & stat.S_IXUSR else 0o644
                tar.addfile(member, _ReportingReader(file, tell))


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


class _HashingWriter(io.RawIOBase):
    """Passes on what is written, counts and hashes it, and refuses what no store takes."""

    def __init__(self, archive: BinaryIO) -> None:
        self._archive = archive
        self.sha256 = hashlib.sha256()
        self.count = 0

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type] # gzip writes bytes
        self.count += view.nbytes
        if self.count > MAX_PACKED_BYTES:
            raise _too_much(f"{MAX_PACKED_BYTES // 2**20} MiB packed")
        self.sha256.update(view)
        return self._archive.write(view)


class _ReportingReader(io.RawIOBase):
    """A file that tells how much of it has been read."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], None]) -> None:
        self._file = file
        self._tell = tell

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._tell(len(data))
        return data


def _found(top: str, leave_out: Collection[str], on_withheld: Callable[[str], None]) -> Iterator[_File]:
    root = os.path.realpath(top)
    not_these = {os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in leave_out}
    above = rules_above(top, LEFT_OUT + SECRETS)
    secrets = above.git[len(LEFT_OUT) : len(LEFT_OUT + SECRETS)]
    waiting = [("", above)]
    count = 0
    while waiting:
        within, rules = waiting.pop()
        rules = rules.entering(os.path.join(top, within))
        with os.scandir(os.path.join(top, within)) as entries:
            for entry in entries:
                name = within + entry.name
                is_dir = entry.is_dir(follow_symlinks=False)
                if entry.name in NEVER_IN or name == ALWAYS_IN or (is_dir and _is_venv(entry.path)):
                    continue
                rule = rules.deciding(entry.path, is_dir=is_dir)
                if rule is not None and rule.excludes:
                    if any(rule is one for one in secrets):
                        on_withheld(name + "/" * is_dir)
                    continue
                if os.path.join(root, name) in not_these:
                    continue
                if not is_dir:
                    count += 1
                    yield _file(root, top, name)
                else:
                    waiting.append((name + "/", rules))
                if count > MAX_FILES:
                    raise _too_much(f"{MAX_FILES:,} files")
    always = os.path.join(top, ALWAYS_IN)
    if not os.path.islink(os.path.dirname(always)) and (os.path.isfile(always) or os.path.islink(always)):
        yield _file(root, top, ALWAYS_IN)


def _is_venv(directory: str) -> bool:
    return os.path.lexists(os.path.join(directory, "pyvenv.cfg"))


def _file(root: str, top: str, name: str) -> _File:
    path = os.path.join(top, name)
    status = os.lstat(path)
    if not stat.S_ISLNK(status.st_mode):
        return _File(name, path, status.st_mode, status.st_size, leads_out=False)
    # What the link says must stay inside, and so must where it leads in the end, through other links.
    end = os.path.realpath(path)
    is_outside = leads_outside(name, os.readlink(path)) or os.path.commonpath([root, end]) != root
    return _File(name, path, status.st_mode, 0, is_outside)
