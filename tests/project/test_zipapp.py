"""The one file: what is in it, that it is the same each time, and that it starts wherever it is put.

Built once per session, from this tree, as `./build.sh` does; what pip fetched for that is kept in build/wheels.
"""

import ast
import base64
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cryptography
import pytest

import bench.azurite
import bench.servers
from bench.azurite import ACCOUNT
from support.certificates import self_signed
from support.packages import pythons, pythons_by_minor
from support.runs import PATIENCE
from support.servers import PATIENT

TREE = Path(__file__).resolve().parents[2]
PARTS = ("onefile", "mopsjobs", "mops_jobs.py", "requirements", "pyproject.toml", "LICENSE")


@pytest.fixture(name="pyz", scope="session")
def _pyz(tmp_path_factory):
    pytest.importorskip("shiv", reason="the file is packed with shiv: ./build.sh test installs it")
    output = tmp_path_factory.mktemp("pyz") / "mops-jobs.pyz"
    _build(TREE, output)
    return output


@pytest.fixture(name="members", scope="session")
def _members(pyz):
    """Return the files that the archive unpacks, as {name: content}."""
    with zipfile.ZipFile(pyz) as envelope, zipfile.ZipFile(io.BytesIO(envelope.read("app.pyz"))) as app:
        return {i.filename: app.read(i) for i in app.infolist() if i.filename.startswith("site-packages/")}


@pytest.fixture(name="home")
def _home(tmp_path):
    """Return an environment with an empty home, an empty temporary directory and nothing else."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}


@pytest.fixture(name="unpacked", scope="session")
def _unpacked_once(pyz):
    """Return where the file was unpacked once, as in a container that forbids bytecode. Tests read and copy it."""
    root = pyz.parent / "app"
    env = {"PATH": os.environ["PATH"], "MOPS_JOBS_UNPACK": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    run = _start(pyz, env)
    assert (run.returncode, run.stderr) == (0, "")
    return root


@pytest.fixture(name="copy")
def _copy(unpacked):
    """Return copies the unpacked files below a directory, as links: a file there is replaced, and never changed."""

    def copy(root):
        shutil.copytree(unpacked, root, copy_function=os.link)
        place = _unpacked(root)
        (mark,) = place.glob("ready-*")
        _replace(mark, b"")
        return place

    return copy


def _replace(path, content):
    path.unlink()
    path.write_bytes(content)


def _build(tree, output, **kwargs):
    command = [sys.executable, str(tree / "onefile" / "build.py"), "--output", str(output)]
    command += ["--wheels", str(TREE / "build" / "wheels")]
    subprocess.run(command, check=True, capture_output=True, **kwargs)


def _run(command, env):
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def _start(pyz, env, *argv, python=sys.executable):
    return _run([python, str(pyz), *(argv or ["--version"])], env)


def _unpacked(root):
    (place,) = Path(root).glob("mops-jobs_*")
    return place


def _files(place):
    """Return what lies unpacked at `place`, without what Python adds."""
    return {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in Path(place, "site-packages").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def _our_files():
    """Return the command and all of the package, data of any kind included, without bytecode and hidden files."""
    litter = {"__pycache__"}
    paths = [TREE / "mops_jobs.py", *(TREE / "mopsjobs").rglob("*")]
    return [
        path.relative_to(TREE)
        for path in paths
        if path.is_file() and not path.name.startswith(".") and not litter & set(path.parts)
    ]


# --- the bytes -------------------------------------------------------------------------------------------------------


def test_two_builds_are_equal_byte_for_byte(pyz, tmp_path):
    """Neither the directory, the clock, the umask, the time zone nor litter in the tree shows in the file."""
    tree = tmp_path / "elsewhere" / "checkout"
    tree.mkdir(parents=True)
    for part in PARTS:
        copy = shutil.copytree if (TREE / part).is_dir() else shutil.copyfile
        copy(TREE / part, tree / part)
    for path in tree.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1e9, 1e9))
    (tree / "mopsjobs" / "__pycache__").mkdir(exist_ok=True)
    (tree / "mopsjobs" / "__pycache__" / "job.cpython-311.pyc").write_bytes(b"stale")
    (tree / "mopsjobs" / ".job.py.swp").write_bytes(b"an editor's")
    again = tmp_path / "again.pyz"
    _build(tree, again, umask=0o077, env={**os.environ, "TZ": "Pacific/Apia", "SOURCE_DATE_EPOCH": "1700000000"})
    assert again.read_bytes() == pyz.read_bytes()


def test_the_file_is_executable_and_at_most_five_megabytes(pyz):
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert pyz.stat().st_mode & 0o111 == 0o111
    assert pyz.stat().st_size <= 5_000_000


def test_nothing_in_the_file_is_compiled(members):
    """It runs on every system and processor: no member is a library, whatever its name."""
    libraries = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
    named = [name for name in members if re.search(r"\.(so|pyd|dylib|dll|exe|a|o)(\.|$)", name)]
    assert not [*named, *(name for name, content in members.items() if content.startswith(libraries))]


def test_a_wheel_with_a_needed_library_fails_the_build(monkeypatch, tmp_path):
    """A package of the lock that becomes compiled is noticed when the file is built, not on another platform."""
    monkeypatch.syspath_prepend(TREE / "onefile")
    wheel = tmp_path / "fast-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fast/_core.abi3.so", b"")
    with pytest.raises(SystemExit, match="is compiled"):
        list(importlib.import_module("build").from_wheels([wheel]))


def test_the_licences_name_every_package_in_the_file(pyz, members):
    """LICENSE, and THIRD_PARTY_LICENSES with name and version of each distribution, are beside the code."""
    with zipfile.ZipFile(pyz) as envelope:
        assert envelope.read("LICENSE") == (TREE / "LICENSE").read_bytes()
        told = envelope.read("THIRD_PARTY_LICENSES").decode()
    for name, content in members.items():
        if name.endswith(".dist-info/METADATA"):
            named, version = re.findall(r"^(?:Name|Version): (\S*)", content.decode(), re.MULTILINE)[:2]
            assert f"\n{named} {version}\n" in told
            inside = [one.lower() for one in members if one.startswith(name.removesuffix("METADATA"))]
            assert any("licen" in one.partition(".dist-info/")[2] for one in inside), named


def test_nothing_in_the_file_names_a_path_of_the_builder(pyz, members):
    """Neither this tree, nor the environment that built it."""
    with zipfile.ZipFile(pyz) as envelope:
        outside = {name: envelope.read(name) for name in envelope.namelist()}
    for path in {str(TREE), sys.prefix, str(pyz.parent)}:
        assert not [name for name, content in {**members, **outside}.items() if path.encode() in content]


def test_our_own_files_are_all_in_the_file(members):
    """Modules and data alike: what is in the tree is in the archive."""
    for path in _our_files():
        assert members[f"site-packages/{path.as_posix()}"] == (TREE / path).read_bytes()


def test_version_tells_of_the_file(pyz, home, unpacked):
    """`version --json` names the file it was started from, its build, where it was unpacked, and its libraries."""
    home["MOPS_JOBS_UNPACK"] = str(unpacked)
    told = json.loads(_start(pyz, home, "version", "--json").stdout)
    place = _unpacked(unpacked)
    assert told["file"] == str(pyz)
    assert told["directory"] == str(place / "site-packages")
    assert place.name == f"mops-jobs_{told['build']}"
    assert told["python_executable"] == sys.executable
    (locked,) = re.findall(r"^flask==(\S+)", (TREE / "requirements" / "runtime.lock").read_text(), re.MULTILINE)
    assert told["libraries"]["flask"] == locked


# --- where it runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(name="bare")
def _bare(tmp_path):
    """Return an environment of each Python that has no packages, `cryptography` least of all."""

    def make(python):
        subprocess.run([python, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
        return str(tmp_path / "bare" / "bin" / "python")

    return make


@pytest.mark.parametrize("python", pythons())
def test_every_python_on_this_machine_runs_the_file(python, bare, pyz, home, tmp_path):
    """From an empty home, without other packages, with Azure's client library. Programs import from it."""
    home["MOPS_JOBS_UNPACK"] = str(tmp_path / "app")
    python = bare(python)
    run = _start(pyz, home, python=python)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("mops-jobs ")
    site_packages = _unpacked(tmp_path / "app") / "site-packages"
    probe = (
        f"import sys; sys.path.insert(0, {str(site_packages)!r})\n"
        "import azure.identity, azure.storage.blob, filelock, lightkube, shtab, sqlite_utils, tabulate, yaml\n"
        "chain = azure.identity.DefaultAzureCredential().credentials\n"
        "print(azure.storage.blob.__file__, *(type(link).__name__ for link in chain))"
    )
    imported = _run([python, "-c", probe], home)
    assert imported.returncode == 0, imported.stderr
    assert imported.stdout.startswith(str(site_packages))
    assert {"EnvironmentCredential", "ManagedIdentityCredential", "AzureCliCredential"} <= {*imported.stdout.split()}
    probe = "import sys; from mopsjobs.registry import JobRegistry; import mopsjobs; print(mopsjobs.__file__)"
    imported = _run([python, "-P", "-c", probe], {**home, "PYTHONPATH": str(pyz)})
    assert imported.returncode == 0, imported.stderr
    assert imported.stdout.startswith(str(site_packages))


def test_it_unpacks_into_the_cache_directory_without_a_word(pyz, home):
    """XDG_CACHE_HOME decides where, else ~/.cache. No other user can look inside; the second run writes nothing."""
    first = _start(pyz, home)
    app = Path(home["HOME"], ".cache", "mops-jobs", "app")
    before = {path: path.stat().st_mtime_ns for path in app.rglob("*")}
    second = _start(pyz, home)
    assert (first.returncode, first.stderr) == (second.returncode, second.stderr) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in app.rglob("*")} == before
    assert app.stat().st_mode & 0o077 == 0
    xdg = Path(home["HOME"], "xdg")
    assert _start(pyz, {**home, "XDG_CACHE_HOME": str(xdg)}).returncode == 0
    assert _unpacked(xdg / "mops-jobs" / "app").is_dir()


def test_a_home_that_cannot_be_written_is_no_hindrance(pyz, home):
    """The file unpacks into a private directory below TMPDIR, says so once, and finds it there the next time."""
    home["HOME"] = "/dev/null/home"
    first, second = _start(pyz, home), _start(pyz, home)
    (private,) = Path(home["TMPDIR"]).iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    assert (first.returncode, first.stderr.count("\n")) == (0, 1)
    assert str(private) in first.stderr
    assert (second.returncode, second.stderr) == (0, "")


@pytest.mark.claim("What mops-jobs keeps is 0600, its directories 0700")
def test_a_planted_symlink_is_not_followed(pyz, home, tmp_path):
    """It gets nothing, and nothing is run from it. The directory used instead stays: runners are started from there."""
    planted = tmp_path / "planted"
    planted.mkdir(mode=0o700)
    planted_link = Path(home["TMPDIR"], f"mops-jobs-{os.getuid()}-0")
    planted_link.symlink_to(planted)
    home["HOME"] = "/dev/null/home"
    run = _start(pyz, home)
    assert run.returncode == 0
    assert run.stderr.count("\n") == 1
    assert list(planted.iterdir()) == []
    own = [path for path in Path(home["TMPDIR"]).iterdir() if not path.is_symlink()]
    assert [(path.stat().st_mode & 0o777, bool(_unpacked(path))) for path in own] == [(0o700, True)]
    assert _start(pyz, home).returncode == 0
    assert sorted(Path(home["TMPDIR"]).iterdir()) == sorted([*own, planted_link]), "it is used again"


@pytest.mark.claim("A temporary directory that others may enter is not used")
@pytest.mark.parametrize("is_below", [True, False])
def test_a_temporary_directory_that_others_may_change_is_not_used(pyz, home, is_below):
    """Neither the own one below it, nor one without a sticky bit, where another user could replace what is unpacked."""
    loose = Path(home["TMPDIR"], *([f"mops-jobs-{os.getuid()}-0"] if is_below else []))
    loose.mkdir(exist_ok=True)
    loose.chmod(0o777)
    assert _start(pyz, {**home, "HOME": "/dev/null/home"}).returncode == 0
    assert list(loose.iterdir()) == []


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="Only root gives files away.")
ANOTHER = 65534


@pytest.fixture(name="plant")
def _plant(copy):
    """Put an unpacked tree below a directory, with code of an attacker that the next start would run from there."""

    def plant(root):
        place = copy(root)
        _replace(place / "site-packages" / "mops_jobs.py", b"print('PLANTED')\n")
        for compiled in place.rglob("mops_jobs.*.pyc"):
            compiled.unlink()
        return place

    return plant


@pytest.fixture(name="shared", scope="session")
def _shared(pyz):
    """Return a temporary directory that the tests below have together: the first one unpacks there."""
    (pyz.parent / "tmp").mkdir()
    return pyz.parent / "tmp"


@pytest.mark.claim("The single file runs nothing that another user owns or can replace")
@pytest.mark.parametrize(
    ("trap", "way"),
    [
        pytest.param("another owner", "MOPS_JOBS_UNPACK", marks=only_root),
        pytest.param("another owner", "XDG_CACHE_HOME", marks=only_root),
        pytest.param("another owner above", "HOME", marks=only_root),
        ("open directory", "MOPS_JOBS_UNPACK"),
        ("open directory above", "MOPS_JOBS_UNPACK"),
        ("open directory above", "HOME"),
        ("open to a group", "MOPS_JOBS_UNPACK"),
        ("a link", "XDG_CACHE_HOME"),
    ],
)
def test_planted_code_is_not_run(pyz, home, tmp_path, plant, shared, trap, way):
    """What another user owns, may write or may put in place is refused: one line, and a private directory is used."""
    top = tmp_path / "theirs"
    root = {"MOPS_JOBS_UNPACK": top, "XDG_CACHE_HOME": top / "mops-jobs/app", "HOME": top / ".cache/mops-jobs/app"}[way]
    place = plant(root)
    if trap == "another owner":
        os.chown(place / "site-packages", ANOTHER, -1)
    elif trap == "another owner above":
        os.chown(top, ANOTHER, -1)
    elif trap == "a link":
        top.rename(tmp_path / "moved")
        top.symlink_to(tmp_path / "moved")
        (tmp_path / "moved").chmod(0o777)
    else:
        where, mode = {
            "open directory": (place, 0o1777),
            "open directory above": (top, 0o777),
            "open to a group": (place / "site-packages", 0o770),
        }[trap]
        where.chmod(mode)
    run = _start(pyz, {**home, "TMPDIR": str(shared), way: str(top)})
    assert run.returncode == 0
    assert run.stdout.startswith("mops-jobs ")
    assert run.stderr.count("\n") == 1
    assert ("belongs to another user" if "owner" in trap else "other users may write") in run.stderr
    assert str(shared / f"mops-jobs-{os.getuid()}") in run.stderr


@pytest.mark.claim("The single file runs nothing that another user owns or can replace")
def test_what_is_ones_own_is_run_below_a_sticky_directory(pyz, home, tmp_path, copy):
    """As below `/tmp`, where no other user can replace it; and below a directory that a group may write."""
    for number, mode in enumerate((0o1777, 0o2775)):
        top = tmp_path / str(number)
        top.mkdir()
        top.chmod(mode)
        if number:  # the first one is unpacked there
            copy(top / "app")
        env = {**home, "MOPS_JOBS_UNPACK": str(top / "app")}
        run = _start(pyz, env)
        assert (run.returncode, run.stderr) == (0, "")
        assert list(Path(home["TMPDIR"]).iterdir()) == []


@pytest.mark.claim("Without a home directory nothing is below `./~`")
@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--version"], ""),
        (["list"], "There is no place for the embedded registry"),
        (["list", "--registry", "sqlite:~/r.db"], "invalid path '~/r.db'"),
    ],
    ids=["version", "list", "registry"],
)
def test_without_a_home_no_directory_called_tilde_is_used(pyz, home, tmp_path, plant, shared, argv, told):
    """HOME is not set, or no absolute path, and the user has no entry: code and data stay out of `./~`."""
    plant(tmp_path / "~/.cache/mops-jobs/app")
    before = sorted(tmp_path.rglob("*"))
    without_entry = (
        "import pwd, runpy, sys\ndef getpwuid(uid): raise KeyError(uid)\npwd.getpwuid = getpwuid\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for env in ({}, {"HOME": "~"}):
        run = subprocess.run(
            [sys.executable, "-B", "-c", without_entry, str(pyz), *argv],
            env={"PATH": home["PATH"], "TMPDIR": str(shared), **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "PLANTED" not in run.stdout
        assert run.returncode == (2 if told else 0), run
        assert f"error: {told}" in run.stderr if told else "error" not in run.stderr
    assert sorted(tmp_path.rglob("*")) == before


# --- Azure, without the package cryptography --------------------------------------------------------------------------

HOST = f"{ACCOUNT}.blob.core.windows.net"
FROM_THE_FILE = f"""
import sys
sys.path.insert(0, sys.argv.pop(1))
import mopsjobs
{PATIENT}
from mops_jobs import entry
entry()
"""


@pytest.fixture(name="azurite_of_tokens", scope="module")
def _azurite_of_tokens(tmp_path_factory):
    """Yield the port of an Azurite that accepts sign-in, which takes HTTPS, and the file of its certificate."""
    directory = tmp_path_factory.mktemp("azurite-https")
    certificate = self_signed(directory, HOST)
    server = bench.azurite.make_server(directory, collects_garbage=False, certificate=certificate)
    with bench.servers.running(server) as port:
        yield port, certificate


def _token():
    """Return an access token for Azure Storage as `az` prints it. Azurite checks no signature."""
    now = int(time.time())
    claims = {
        "aud": "https://storage.azure.com",
        "iss": "https://sts.windows.net/lab/",
        "nbf": now - 60,
        "iat": now - 60,
    }
    parts = ({"alg": "none", "typ": "JWT"}, {**claims, "exp": now + 3600})
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return json.dumps({"accessToken": f"{text}.", "expires_on": now + 3600, "tokenType": "Bearer"})


def _command(python, pyz, env):
    def command(*argv):
        run = _run([python, "-c", FROM_THE_FILE, str(pyz), *argv], env)
        assert run.returncode == 0, run
        return run.stdout

    return command


@pytest.mark.parametrize("python", pythons_by_minor())
def test_azure_works_without_cryptography(python, bare, pyz, home, azurite):
    """By the key of an account, and by a SAS: jobs are registered, mirrored and listed."""
    container, python = azurite.new_container(), bare(python)
    registry = ("--registry", f"azure://{container}")
    by_key = _command(python, pyz, {**home, **azurite.env})
    by_key(*registry, "register", "by-key", "--quiet")
    sas = azurite.sas_url(container, "racwdl").partition("?")[2]
    string = f"BlobEndpoint={azurite.endpoint};SharedAccessSignature={sas}"
    by_sas = _command(python, pyz, {**home, "AZURE_STORAGE_CONNECTION_STRING": string})
    by_sas(*registry, "register", "by-sas", "--quiet")
    listed = json.loads(by_sas(*registry, "list", "--refresh", "--json"))
    assert {job["job_id"] for job in listed["jobs"]} == {"by-key", "by-sas"}


@pytest.mark.parametrize("python", pythons_by_minor())
def test_sign_in_works_without_cryptography(python, bare, pyz, home, tmp_path, azurite_of_tokens):
    """By a token of `az`, over HTTPS, for the host of an account."""
    port, certificate = azurite_of_tokens
    python = bare(python)
    (site_packages,) = tmp_path.glob("bare/lib/python*/site-packages")
    (site_packages / "to_azurite.pth").write_text("import to_azurite\n")
    (site_packages / "to_azurite.py").write_text(
        "import socket\nfind = socket.getaddrinfo\ndef to_azurite(*place, **options):\n"
        f"    return find(*(('127.0.0.1', {port}) if place[0] == {HOST!r} else place[:2]), *place[2:], **options)\n"
        "socket.getaddrinfo = to_azurite\n"
    )
    (tmp_path / "az").write_text(f"#!/bin/sh\ncat <<'END'\n{_token()}\nEND\n")
    (tmp_path / "az").chmod(0o755)
    env = {**home, "PATH": f"{tmp_path}:{home['PATH']}"}
    env |= {"REQUESTS_CA_BUNDLE": str(certificate), "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential"}
    command = _command(python, pyz, env)
    name = tmp_path.name.replace("_", "-")
    registry = ("--registry", f"https://{HOST}/signed-in")
    command(*registry, "register", name, "--quiet")
    listed = json.loads(command(*registry, "list", "--refresh", "--json"))
    assert name in {job["job_id"] for job in listed["jobs"]}


def test_sign_in_by_certificate_says_what_to_install(bare, pyz, home, unpacked, tmp_path):
    """Without the package cryptography: one sentence, and the exit code of a sign-in."""
    certificate = self_signed(tmp_path)
    env = {**home, "MOPS_JOBS_UNPACK": str(unpacked), "AZURE_CLIENT_CERTIFICATE_PATH": str(certificate)}
    env |= {"AZURE_CLIENT_ID": "lab", "AZURE_TENANT_ID": "lab"}
    python = bare(sys.executable)
    run = _start(pyz, env, "sync", "--registry", f"https://{HOST}/signed-in", python=python)
    assert (run.returncode, run.stdout) == (4, "")
    assert run.stderr.splitlines() == [
        "error: Azure sign-in by certificate fails: ModuleNotFoundError.",
        f"hint: Check AZURE_CLIENT_CERTIFICATE_PATH, and that {python} has the package cryptography.",
    ]


def test_the_cryptography_of_the_interpreter_is_used(home, unpacked):
    """What the file has in its place is for a Python without the package."""
    probe = (
        f"import sys; sys.path.insert(0, {str(_unpacked(unpacked) / 'site-packages')!r})\n"
        "from azure.storage.blob._encryption import AESGCM\n"
        "AESGCM(AESGCM.generate_key(128)); print(sys.modules['cryptography'].__file__)"
    )
    run = _run([sys.executable, "-c", probe], home)
    assert (run.returncode, run.stdout.strip()) == (0, cryptography.__file__), run.stderr


def test_a_cryptography_that_cannot_be_imported_is_left_alone(bare, home, unpacked, tmp_path):
    """Such as Debian's, which each Python of the machine sees, and which is compiled for one of them."""
    package = tmp_path / "cryptography"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '1'\n")
    (package / "hazmat.py").write_text("import _cffi_backend_of_another_python\n")
    probe = (
        f"import sys; sys.path[:0] = [{str(_unpacked(unpacked) / 'site-packages')!r}, {str(tmp_path)!r}]\n"
        "import azure.storage.blob, azure.identity\n"
        "azure.identity.DefaultAzureCredential(); print(type(sys.modules['cryptography']).__name__)"
    )
    run = _run([bare(sys.executable), "-c", probe], home)
    assert (run.returncode, run.stdout.strip()) == (0, "_Absent"), run.stderr


def test_a_certificate_that_is_missing_is_named(home, unpacked, pyz):
    """With exit code 4, as each sign-in that fails."""
    env = {**home, "MOPS_JOBS_UNPACK": str(unpacked), "AZURE_CLIENT_CERTIFICATE_PATH": "/nowhere.pem"}
    env |= {"AZURE_CLIENT_ID": "lab", "AZURE_TENANT_ID": "lab"}
    run = _start(pyz, env, "sync", "--registry", f"https://{HOST}/signed-in")
    assert (run.returncode, run.stdout) == (4, "")
    assert "error: Azure sign-in by certificate fails: /nowhere.pem: No such file or directory." in run.stderr


# --- `import mopsjobs` from the file ----------------------------------------------------------------------------------

MODEL = "def simulate(params, seed):\n    return {'double': 2 * params['x']}\n"
NOTEBOOK = """
import sys
sys.path.insert(0, "mops-jobs.pyz")
import mopsjobs as mj
import azure.ml, azure.storage.blob, unpack
with mj.connect() as reg:
    job = reg.submit(mj.Study("model:simulate", mj.grid(x=[1, 2]), outputs=["result.json"]), "code", workers=1)
    job.wait()
    job.raise_for_status()
    print([row["double"] for row in job.results()])
print(mj.__file__, azure.storage.blob.__file__, azure.ml.__file__, unpack.__file__)
assert not [place for place in sys.path if place.endswith(".pyz")]
"""


def test_a_program_imports_the_package_from_the_file(pyz, home, unpacked, tmp_path):
    """Jobs run. The modules of the program, and its other packages of Azure, can still be imported."""
    (tmp_path / "mops-jobs.pyz").symlink_to(pyz)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text(MODEL)
    (tmp_path / "environment" / "azure" / "ml").mkdir(parents=True)
    for name in ("azure/ml/__init__.py", "unpack.py"):
        (tmp_path / "environment" / name).touch()
    run = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", NOTEBOOK],
        cwd=tmp_path,
        env={**home, "MOPS_JOBS_UNPACK": str(unpacked), "PYTHONPATH": str(tmp_path / "environment")},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (run.returncode, run.stderr) == (0, "")
    results, places = run.stdout.splitlines()
    assert results == "[2, 4]"
    inside = [place.startswith(str(_unpacked(unpacked))) for place in places.split()]
    assert inside == [True, True, False, False]


def test_an_import_that_fails_is_an_import_error(home, pyz, tmp_path):
    """A notebook goes on, and shows the sentence that the command would print."""
    damaged = tmp_path / "damaged.pyz"
    damaged.write_bytes(_damaged(pyz))
    probe = "try:\n    import mopsjobs\nexcept ImportError as error:\n    print(error)"
    run = _run([sys.executable, "-P", "-c", probe], {**home, "PYTHONPATH": str(damaged)})
    assert (run.returncode, run.stderr) == (0, "")
    assert "damaged" in run.stdout


# --- first runs ------------------------------------------------------------------------------------------------------


def test_first_runs_at_once_do_not_harm_each_other(pyz, members, home):
    """Two start on an empty home: both succeed, and one complete tree is left, without scraps."""
    command = [sys.executable, str(pyz), "--version"]
    running = [
        subprocess.Popen(command, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ended = [(*process.communicate(), process.returncode) for process in running]
    assert {(err, code) for _, err, code in ended} == {("", 0)}
    assert len({out for out, _, _ in ended}) == 1
    assert _files(_unpacked(Path(home["HOME"], ".cache/mops-jobs/app"))) == members


@pytest.mark.parametrize("was_killed", [True, False])
def test_what_is_missing_is_unpacked_again(pyz, members, home, copy, was_killed):
    """Without the mark of a whole unpacking, and once a week: a cache cleaner has no lasting effect."""
    place = copy(Path(home["HOME"], ".cache/mops-jobs/app"))
    (mark,) = place.glob("ready-*")
    long_ago = time.time() - 8 * 24 * 3600
    if was_killed:
        mark.unlink()
    else:
        os.utime(mark, (long_ago, long_ago))
    _harm(place)
    assert _start(pyz, home).returncode == 0
    assert _files(place) == members
    assert mark.stat().st_mtime > long_ago + 24 * 3600


def _harm(place):
    site_packages = Path(place, "site-packages")
    _replace(site_packages / "mops_jobs.py", b"")
    shutil.rmtree(site_packages / "mopsjobs")
    site_packages.joinpath("azure", "core", "__init__.py").unlink()


def test_a_damaged_file_is_refused_in_one_sentence(pyz, home, tmp_path):
    damaged = tmp_path / "damaged.pyz"
    damaged.write_bytes(_damaged(pyz))
    run = _start(damaged, home)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.count("\n") == 1
    assert "damaged" in run.stderr


def _damaged(pyz):
    content = bytearray(pyz.read_bytes())
    content[len(content) // 2] ^= 0xFF
    return content


def test_an_old_python_is_told_so_in_one_sentence(pyz, monkeypatch):
    """The first lines are readable to it, and say which Python it is and which is needed."""
    with zipfile.ZipFile(pyz) as envelope:
        main, source = (envelope.read(name).decode() for name in ("__main__.py", "bootstrap.py"))
    tree = ast.parse(main + source, feature_version=(3, 7))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.AnnAssign)]
    monkeypatch.setattr(sys, "version_info", (3, 8, 10, "final", 0))
    with pytest.raises(SystemExit) as refused:
        exec(compile(source, "bootstrap.py", "exec"), {"__name__": "__main__"})
    assert "needs Python 3.11" in str(refused.value)
    assert "Python 3.8" in str(refused.value)


# --- the same command, however it came -------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["list", "--no-such-flag"]], ids=" ".join)
def test_file_and_module_do_the_same(argv, pyz, unpacked, home):
    """Same words on both channels, same exit code."""
    home["COLUMNS"] = "100"
    home["MOPS_JOBS_UNPACK"] = str(unpacked)
    runs = [
        _run([sys.executable, str(pyz), *argv], home),
        _run([sys.executable, str(TREE / "mops_jobs.py"), *argv], home),
    ]
    answers = {(run.returncode, run.stdout, run.stderr) for run in runs}
    assert len(answers) == 1, answers
