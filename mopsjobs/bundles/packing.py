"""Pack a directory as a bundle: choose its files, and write an archive that is the same for the same files."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import os
import re
import stat
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NamedTuple, Self

from mopsjobs.bundles.extraction import MAX_FILES, MAX_UNPACKED_BYTES, leads_outside
from mopsjobs.bundles.git_state import GitState
from mopsjobs.errors import UsageError
from mopsjobs.utils.files import FILE_FLAGS
from mopsjobs.utils.written_tables import Written

MAX_PACKED_BYTES = 256 * 2**20
"""The largest value that every store takes. A test compares it with mopsjobs/store/azure/store.py."""

MAX_SHOWN = 10

LEFT_OUT = (
    "__pycache__/",
    "*.pyc",
    ".cache/",
    ".ipynb_checkpoints/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".snakemake/",
    ".DS_Store",
    "[0-9a-f]" * 64 + "/",
    "**/all/reduced-[0-9]*/",
)
"""Files that tools create again: no model needs them, and they would change the digest. A home directory has `.cache/`,
with the unpacked mops-jobs in it. The last two are directories of a download: of a parameter set, and of what was
reduced over all."""

SECRETS = (
    ".env", ".env.*", "!.env.example", "!.env.sample", "!.env.template",
    ".netrc", ".pgpass", ".pypirc", ".git-credentials", ".aws/", ".azure/", ".kube/", ".ssh/",
    "id_rsa", "id_ecdsa", "id_ed25519", "*.pem", "*.p12", "*.pfx",
)  # fmt: skip
"""Files with secrets, by their usual names. Every reader of the registry can read a bundle, and it stays there. So they
are left out, and `submit` names them, unless a rule of the user decides about them."""

MODELOPS_REGISTRY = ".modelops-bundle/registry.yaml"
"""The models and targets of a bundle, from which ModelOps' wire function loads a model."""

ALWAYS_IN = (".modelops/manifest.json", ".modelops/modelops.toml", MODELOPS_REGISTRY)
"""Files that ModelOps reads in a bundle. Its own templates list their directories in `.gitignore`."""

METADATA_FILE = "ro-crate-metadata.json"

CRATE_FILES = (METADATA_FILE, "provenance.json")
"""Files that every RO-Crate has that mops-jobs wrote. A directory with them is left out."""

NEVER_IN = (".git", ".mops-jobs.toml", ".mops-jobs.part")
"""Names that are never packed: they are about the directory, not about the model. A download that was killed leaves the
last one."""


class PackedBundle(NamedTuple):
    """A bundle on its way to the store. Close it, or use it as a context, to remove its temporary file."""

    archive: BinaryIO
    digest: str
    """The name of the bundle: `sha256:<hex>` of the bytes of the archive."""
    files: int
    bytes: int
    blobs: Mapping[str, str] = MappingProxyType({})
    """Paths of the files, relative to the packed directory, with slashes; each with `MODE HASH`, as git has it."""
    withheld: tuple[str, ...] = ()
    """Paths that were left out as `SECRETS`, a directory with a slash at its end."""
    written: tuple[str, ...] = ()
    """Paths that were left out, since mops-jobs has written them: tables of results, and RO-Crates with a slash."""
    git: GitState | None = None
    """The commit of the directory, if the caller has looked for it."""

    @property
    def names(self) -> AbstractSet[str]:
        """Return the paths of the files."""
        return self.blobs.keys()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file."""
        self.archive.close()


def read_archive(packed: PackedBundle) -> bytes:
    """Return the bytes of the archive."""
    packed.archive.seek(0)
    return packed.archive.read()


def pack(
    directory: Path | None,
    *,
    added: Mapping[str, bytes] = MappingProxyType({}),
    leave_out: Collection[str] = (),
    tables: Written = MappingProxyType({}),
    on_progress: Callable[[int], None] | None = None,
) -> PackedBundle:
    """Pack a directory. Memory does not grow with the size of its files.

    Forbidden are links that lead out, and entries that are neither files, links nor directories. The error names them
    all. The limits are `MAX_FILES`, `MAX_UNPACKED_BYTES` and `MAX_PACKED_BYTES`.

    Args:
        directory: the directory; None for `added` alone.
        added: more files, by their paths in the bundle. They are not executable.
        leave_out: paths of what mops-jobs itself keeps, which stays out whatever the rules say.
        tables: files of results that mops-jobs has written. They stay out, unless a rule of the user brings them back.
        on_progress: called from time to time with the bytes of files packed so far.

    Raises:
        UsageError: if it has forbidden content, nothing to pack, or too much, or if something in it cannot be read.
            Also if a file has the name of an added one.
    """
    withheld: list[str] = []
    crates: list[str] = []
    try:
        found = [] if directory is None else [*_find_files(os.path.abspath(directory), leave_out, withheld, crates)]
        root = os.path.realpath(directory or "")
        left_out = [file for file in found if not file.is_wanted and _is_written(os.path.join(root, file.name), tables)]
        found = [file for file in found if file not in left_out]
        files = sorted(
            [*found, *itertools.starmap(_added_file, added.items())], key=lambda file: os.fsencode(file.name)
        )
        _check_files(directory, files, added)
        with contextlib.ExitStack() as cleanup:
            archive = cleanup.enter_context(tempfile.TemporaryFile())
            hashing = _HashingWriter(archive)
            blobs = _write_archive(files, hashing, on_progress or (lambda count: None))
            cleanup.pop_all()
    except OSError as error:
        raise UsageError(f"The directory {directory} cannot be packed: {error}.") from None
    written = tuple(sorted([*crates, *(file.name for file in left_out)]))
    digest = f"sha256:{hashing.sha256.hexdigest()}"
    return PackedBundle(archive, digest, len(files), hashing.count, blobs, tuple(sorted(withheld)), written)


class _File(NamedTuple):
    name: str
    path: str
    mode: int
    size: int
    leads_out: bool
    content: bytes | None = None
    """The content of a file that is not on the disk."""
    is_wanted: bool = False

    def open(self) -> BinaryIO:
        """Open the file for reading. A link is not followed."""
        return open(self.path, "rb", opener=_open_no_link) if self.content is None else io.BytesIO(self.content)


def _is_written(path: str, tables: Written) -> bool:
    """Return whether a file is one of these tables, unchanged."""
    if path not in tables:
        return False
    status = os.lstat(path)
    return tables[path] == (status.st_size, status.st_mtime_ns)


def _added_file(name: str, content: bytes) -> _File:
    return _File(name, name, stat.S_IFREG, len(content), leads_out=False, content=content)


def _check_files(directory: Path | None, files: list[_File], added: Collection[str]) -> None:
    if taken := set(added) & {file.name for file in files if file.content is None}:
        raise UsageError(f"The directory {directory} has a file {min(taken)!r}, which is generated.", hint="Rename it.")
    for problem, names in (
        ("links that lead out of it", [file.name for file in files if file.leads_out]),
        (
            "special files",
            [file.name for file in files if not (stat.S_ISREG(file.mode) or stat.S_ISLNK(file.mode))],
        ),
    ):
        if names:
            more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
            shown = ", ".join(repr(name) for name in names[:MAX_SHOWN])
            raise UsageError(
                f"The directory {directory} cannot be packed: it has {problem}: {shown}{more}.",
                hint="List them in .modelopsignore to leave them out.",
            )
    if not files:
        raise UsageError(f"The directory {directory} has nothing to pack.")
    if sum(file.size for file in files) > MAX_UNPACKED_BYTES:
        raise _too_much(f"{MAX_UNPACKED_BYTES // 2**20} MiB")


def _too_much(limit: str) -> UsageError:
    return UsageError(
        f"The directory is too large: a bundle has at most {limit}.",
        hint="List what the model does not need in .modelopsignore.",
    )


def _write_archive(files: list[_File], out: _HashingWriter, on_progress: Callable[[int], None]) -> dict[str, str]:
    """Write the archive. Return `PackedBundle.blobs`."""
    packed_bytes = 0
    blobs: dict[str, str] = {}

    def report(count: int) -> None:
        nonlocal packed_bytes
        packed_bytes += count
        on_progress(packed_bytes)

    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0) as packed,
        tarfile.open(
            fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
        ) as tar,
    ):
        for file in files:
            member = tarfile.TarInfo(file.name)  # time, owner and group stay 0
            if stat.S_ISLNK(file.mode):
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(file.path), 0o777
                tar.addfile(member)
                target = os.fsencode(member.linkname)
                blobs[file.name] = f"120000 {_blob_hash(len(target), target).hexdigest()}"
                continue
            with file.open() as content:
                member.size, mode = file.size, file.mode
                if file.content is None:  # it may have changed since it was listed
                    status = os.fstat(content.fileno())
                    member.size, mode = status.st_size, status.st_mode
                member.mode = 0o755 if mode & stat.S_IXUSR else 0o644
                blob = _blob_hash(member.size)
                tar.addfile(member, _ReportingReader(content, report, blob.update))
                blobs[file.name] = f"100{member.mode:o} {blob.hexdigest()}"
    return blobs


def _blob_hash(size: int, content: bytes = b"") -> hashlib._Hash:
    """Return the hash of a file, as git computes it, over this part of its content."""
    return hashlib.sha1(b"blob %d\0" % size + content, usedforsecurity=False)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | FILE_FLAGS)


class _HashingWriter(io.RawIOBase):
    """A file that counts and hashes what is written to it, and refuses more than a store takes."""

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
    """A file that reports how much of it has been read, and what."""

    def __init__(self, file: BinaryIO, on_read: Callable[[int], None], on_data: Callable[[bytes], None]) -> None:
        self._file = file
        self._on_read = on_read
        self._on_data = on_data

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._on_read(len(data))
        self._on_data(data)
        return data


def _find_files(top: str, leave_out: Collection[str], withheld: list[str], crates: list[str]) -> Iterator[_File]:
    """Yield the files to pack. Add those that were left out as secrets, and as crates, to the lists."""
    root = os.path.realpath(top)
    excluded = {
        os.path.normcase(real)
        for path in leave_out
        for real in (
            os.path.realpath(path),
            os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)),
        )
    }
    above = rules_above(top, LEFT_OUT + SECRETS)
    secrets = above.git[len(LEFT_OUT) : len(LEFT_OUT + SECRETS)]
    pending = [("", above)]
    count = 0
    while pending:
        parent, rules = pending.pop()
        rules = rules.with_directory(os.path.join(top, parent))
        with os.scandir(os.path.join(top, parent)) as entries:
            for entry in entries:
                name = parent + entry.name
                is_dir = entry.is_dir(follow_symlinks=False)
                if entry.name in NEVER_IN or name in ALWAYS_IN or (is_dir and _is_venv(entry.path)):
                    continue
                rule = rules.find_rule(entry.path, is_dir=is_dir)
                if rule is not None and rule.excludes:
                    if any(rule is secret for secret in secrets):
                        withheld.append(name + "/" * is_dir)
                    continue
                if os.path.normcase(os.path.join(root, name)) in excluded:
                    continue
                if not is_dir:
                    count += 1
                    yield _inspect(root, top, name)._replace(is_wanted=rule is not None)
                elif rule is None and _is_crate(entry.path):
                    crates.append(name + "/")
                else:
                    pending.append((name + "/", rules))
                if count > MAX_FILES:
                    raise _too_much(f"{MAX_FILES:,} files")
    for name in ALWAYS_IN:
        path = os.path.join(top, name)
        if not os.path.islink(os.path.dirname(path)) and (os.path.isfile(path) or os.path.islink(path)):
            yield _inspect(root, top, name)


def _is_venv(directory: str) -> bool:
    return os.path.lexists(os.path.join(directory, "pyvenv.cfg"))


def _is_crate(directory: str) -> bool:
    return all(os.path.lexists(os.path.join(directory, name)) for name in CRATE_FILES)


def _inspect(root: str, top: str, name: str) -> _File:
    path = os.path.join(top, name)
    status = os.lstat(path)
    if not stat.S_ISLNK(status.st_mode):
        return _File(name, path, status.st_mode, status.st_size, leads_out=False)
    # The target of the link must stay inside, and so must its end, through other links.
    end = os.path.realpath(path)
    is_outside = leads_outside(name, os.readlink(path)) or os.path.commonpath([root, end]) != root
    return _File(name, path, status.st_mode, 0, is_outside)


_TRAILING_SPACES = re.compile(r"(?<!\\) +$")

_CLASSES = (
    ("alnum", "0-9A-Za-z"), ("alpha", "A-Za-z"), ("blank", " \t"), ("digit", "0-9"), ("lower", "a-z"),
    ("punct", "!-,.:-@\\[-`{-~-"), ("space", " \t\r\v\f"), ("upper", "A-Z"), ("xdigit", "0-9A-Fa-f"),
)  # fmt: skip


class IgnoreRule(NamedTuple):
    """One line of a file of rules."""

    base: str
    """The path of the directory of the rule, with a slash at its end."""
    regex: re.Pattern[str]
    excludes: bool
    is_for_directories: bool
    is_for_all_below: bool

    def matches(self, path: str, *, is_dir: bool) -> bool:
        """Return True if the rule matches this path itself. Paths above it were checked before."""
        if self.is_for_directories and not is_dir:
            return False
        name = path[len(self.base) :]
        match = self.regex.search(name)
        return match is not None and (self.is_for_all_below or match.end() == len(name))


class IgnoreRules(NamedTuple):
    """The rules in force in a directory. Those of a deeper directory come later, and the last match decides.

    The rules of each directory count, and those of the directories above it in the same repository. The settings of one
    machine do not: with them the same files would be another bundle elsewhere. `.modelopsignore` has the same form and
    the last word.

    pathspec turns a pattern into a regular expression. Its own matching asks whether a path or one above it matches,
    which lets `!dir/` bring back more than git does. So this module matches by itself.
    """

    git: tuple[IgnoreRule, ...]
    modelops: tuple[IgnoreRule, ...]

    def find_rule(self, path: str, *, is_dir: bool) -> IgnoreRule | None:
        """Return the rule that decides about a path, if nothing above it is left out. A link counts as a file."""
        name = _as_text(path)
        rules = (*reversed(self.modelops), *reversed(self.git))
        return next((rule for rule in rules if rule.matches(name, is_dir=is_dir)), None)

    def with_directory(self, directory: str) -> IgnoreRules:
        """Return these rules and those of a directory."""
        git, modelops = _read_rules(directory, ".gitignore"), _read_rules(directory, ".modelopsignore")
        return IgnoreRules(self.git + git, self.modelops + modelops) if git or modelops else self


def rules_above(top: str, before: tuple[str, ...]) -> IgnoreRules:
    """Return the rules in force where a directory begins.

    Args:
        top: the directory, absolute. Its own rules are not included: see `IgnoreRules.with_directory`.
        before: patterns that come first, one rule each. Those of the directories above follow, up to the root of the
            repository, if there is one.

    Raises:
        OSError: if a file of rules cannot be read.
    """
    above: list[str] = []
    directory = top
    while not os.path.lexists(os.path.join(directory, ".git")):
        parent = os.path.dirname(directory)
        if parent == directory:
            above.clear()
            break
        above.insert(0, parent)
        directory = parent
    base = _pattern_base(top)
    rules = IgnoreRules(tuple(rule for line in before if (rule := _parse_rule(base, line)) is not None), ())
    for parent in above:
        rules = rules.with_directory(parent)
    return rules


def _read_rules(directory: str, name: str) -> tuple[IgnoreRule, ...]:
    path = os.path.join(directory, name)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # git does not follow a link either
            return ()
    except FileNotFoundError:
        return ()
    with open(path, "rb") as file:
        lines = file.read().removeprefix(b"\xef\xbb\xbf").decode("latin-1").split("\n")
    base = _pattern_base(directory)
    return tuple(rule for line in lines if (rule := _parse_rule(base, line.removesuffix("\r"))) is not None)


def _parse_rule(base: str, line: str) -> IgnoreRule | None:
    """Make a rule of a line as git does; None if git makes none of it."""
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    if line.startswith("#"):
        return None
    line = _TRAILING_SPACES.sub("", line)
    is_for_directories = line.endswith("/")
    line = line.removesuffix("/")
    for name, characters in _CLASSES:
        line = line.replace(f"[:{name}:]", characters)
    if line[-1:].isspace() and not line.endswith("\\ "):
        line = f"{line[:-1]}[{line[-1]}]"  # pathspec would strip the blank, git does not
    try:
        regex, excludes = GitIgnoreSpecPattern.pattern_to_regex(line)
        if regex is None or excludes is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of [[], which means the same to re and to git
            compiled = re.compile(regex.replace("[^", "[^/"), re.DOTALL)
    except (ValueError, re.error):
        return None  # to git an invalid pattern matches nothing
    return IgnoreRule(base, compiled, excludes, is_for_directories, regex == "." or line.endswith("/**"))


def _pattern_base(directory: str) -> str:
    return _as_text(os.path.join(directory, ""))


def _as_text(path: str) -> str:
    """Decode a path with one character per byte: patterns of git match bytes, and not every name is UTF-8."""
    return os.fsencode(path).decode("latin-1")
