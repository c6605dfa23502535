"""No secret leaves a run, whichever way it came in. Files are their owner's alone; TLS is verified."""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import http.server
import importlib.util
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import tempfile
import threading
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, quote_plus

import pytest
from azure.storage.blob import generate_container_sas

import mops_jobs
from mopsjobs.bundles.packing import pack
from mopsjobs.engines.base import Launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.kubernetes.engine import KubernetesEngine
from mopsjobs.engines.kubernetes.manifest import build_manifest
from mopsjobs.engines.model_env import SECRET_VARIABLES, model_environment
from mopsjobs.errors import CacheError, EngineAccessError, EngineError, MopsJobsError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.outputs import results_prefix
from mopsjobs.studies.packed_store import show_packs
from mopsjobs.utils import user_dirs
from support.certificates import self_signed
from support.cli import Cli, Ran, Spawn, add, command, environment, sentences
from support.desk import end_runners
from support.kubernetes import kubeconfig
from support.runs import code, is_alive, kill, until
from support.servers import Azurite
from support.web import serving

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


# A runner outlives the process that launched it, here this very process.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

ROOT = Path(mops_jobs.__file__).parent
PUBLIC = "https://acct.blob.core.windows.net/c-1"

CASES: dict[str, tuple[str, ...]] = {
    "register": ("register", "a", "--owner", "me"),
    "progress": ("progress", "a", "1/2"),
    "update": ("update", "a", "failed", "--error", "as asked"),
    "note": ("note", "a", "as noted"),
    "label": ("label", "a", "paper=fig2", "draft-"),
    "submit": ("submit", "study.json", "--auto", "--job-id", "job", "--workers", "1"),
    "calibrate": ("calibrate", "job"),
    "wait": ("wait", "job", "--timeout", "1m"),
    "run": ("run", "job", "--workers", "1", "--patience", "1ms"),
    "resume": ("resume", "job"),
    "sync": ("sync",),
    "list": ("list", "--json", "--refresh"),
    "status": ("status", "job"),
    "tasks": ("tasks", "job"),
    "failures": ("failures", "job"),
    "watch": ("watch",),
    "summary": ("summary",),
    "query": ("query", "SELECT * FROM jobs"),
    "events": ("events", "--json"),
    "logs": ("logs", "job"),
    "prune": ("prune", "--older-than", "90d", "--yes"),
    "cancel": ("cancel", "job", "--yes"),
    "validate": ("validate", "job"),
    "results": ("results", "job", "--download", "fetched"),
    "provenance": ("provenance", "job"),
    "diff": ("diff", "job", "job"),
    "replay": ("replay", "job", "0"),
    "reconcile": ("reconcile",),
    "metrics": ("metrics",),
    "doctor": ("doctor",),
    "version": ("version", "--json"),
    "config": ("config", "show"),
    "schema": ("schema",),
    "completion": ("completion", "--words", "jobs", ""),
    "help": ("help", "list"),
    "serve": ("serve",),
}
"""How each command is called here, in an order in which one makes what the next looks at."""

TELLTALE = '''
"""A model that tells all that it sees of its environment, as many do when something goes wrong."""
import json, os, sys

def simulate(params, seed):
    network = ("HTTPS_PROXY", "DASK_SCHEDULER_ADDRESS")  # which a model may need as much as we do
    told = {name: value for name, value in os.environ.items() if name not in network}
    print(told, flush=True)
    print(sys.argv, file=sys.stderr, flush=True)
    if params["x"] == 1:
        raise ValueError(json.dumps(told))
    return told
'''

ELSEWHERE = {
    "AZURE_CLIENT_SECRET": WORD,
    "AZURE_CLIENT_CERTIFICATE_PASSWORD": WORD,
    "AWS_SECRET_ACCESS_KEY": WORD,
    "AWS_SESSION_TOKEN": WORD,
    "DASK_SCHEDULER_ADDRESS": f"tcp://me:{WORD}@127.0.0.1:9",
    "HTTPS_PROXY": f"http://me:{quote(WORD, safe='')}@127.0.0.1:9",
}
"""Secrets that stand in the environment besides those that open the registry."""


@pytest.mark.claim("No secret is printed, kept, sent or served")
def test_every_command_has_a_case() -> None:
    """A command that is new gets one here, or this fails."""
    parser = mops_jobs.build_parser()
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    assert set(CASES) == set(commands.choices)


@pytest.mark.claim("No secret is printed, kept, sent or served")
@pytest.mark.parametrize("name", FORMS)
def test_what_looks_for_secrets_finds_them(name: str) -> None:
    """In every form, within other text, and compressed: else the tests below could not fail."""
    import base64
    import gzip

    secret = {"account key": ACCOUNT_KEY, "other key": OTHER_KEY, "word": WORD, "signature": SAS}[name]
    for before in ("", "x", "xy", "xyz"):
        text = f"{before}{secret} and more"
        found = [text, quote(text), base64.b64encode(text.encode()), gzip.compress(text.encode()), text.lower()]
        assert [one for one in found[: 1 if name == "signature" else None] if name not in seen(one)] == []
    assert seen("nothing of the kind") == set()


# --- a registry that opens ------------------------------------------------------------------------------------------


class Desk:
    """The command with a model's directory, and everything that it says, looked through."""

    def __init__(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, home: Path, env: dict[str, str]) -> None:
        self.cli, self.home = cli, home
        self.top = Path(cli.env["HOME"])
        code(home, TELLTALE)
        (home / "study.json").write_text(
            json.dumps({"model": "model:simulate", "parameter_sets": [{"x": 0}, {"x": 1}], "outputs": ["result.json"]})
        )
        (home / ".env").write_text(f"AZURE_STORAGE_KEY={ACCOUNT_KEY}\nPASSWORD={WORD}\n")
        monkeypatch.chdir(home)
        cli.env.update({"PATH": os.environ["PATH"], **env})
        for name, value in cli.env.items():
            monkeypatch.setenv(name, value)  # HTTP libraries and the runner read the process' own
        # What would go on without end is interrupted when it waits.
        cli.clock.on_sleep = lambda count: _interrupt() if count > 50 else None

    def __call__(self, *argv: str) -> Ran:
        """Run it; what it says, even as a traceback, has no secret in it."""
        self.cli.clock.slept.clear()
        try:
            ran = self.cli(*argv)
        except MopsJobsError:
            raise
        except Exception as error:  # noqa: BLE001 - at -v what is unexpected comes out as it is
            ran = Ran(1, "", "".join(traceback.format_exception(error)))
        assert (argv, seen(ran.out), seen(ran.err)) == (argv, set(), set()), ran
        return ran

    def runner(self, job_id: str) -> int:
        told: dict[str, int] = json.loads((JobDir.for_job(job_id, self.cli.env).path / "runner.json").read_text())
        return told["pid"]

    def open_to_others(self) -> dict[Path, str]:
        """Return the files and directories below HOME that others may read, but for what Python and the model add."""
        paths = (path for path in self.top.rglob("*") if "__pycache__" not in path.parts and not path.is_symlink())
        modes = {path.relative_to(self.top): stat.S_IMODE(path.stat().st_mode) for path in paths if path.exists()}
        return {path: oct(mode) for path, mode in modes.items() if mode & 0o077}

    def kept(self) -> dict[str, set[str]]:
        """Return the files of mops-jobs with a secret in them."""
        return seen_in_files(self.top) | seen_in_files(self.home, but=[self.home / ".env"])


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def marked_azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Yield an Azurite whose account has the marked key."""
    server = Azurite(tmp_path_factory.mktemp("marked"), ACCOUNT, ACCOUNT_KEY)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def desk(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    """Make a desk in a registry; its runners are gone when the test has ended."""
    monkeypatch.setattr("mopsjobs.store.pacer.PAUSES", (0.0, 0.0))
    with contextlib.ExitStack() as stack:

        def made(registry: str, **env: str) -> Desk:
            one = Desk(cli, monkeypatch, tmp_path / "desk", {"MOPS_JOBS_REGISTRY": registry, **env})
            stack.callback(end_runners, cli.env)
            return one

        yield made


@pytest.mark.claim("No secret is printed, kept, sent or served", "Models do not see what opens the registry")
def test_no_secret_leaves_a_run_that_succeeds(
    marked_azurite: Azurite, desk: Callable[..., Desk], tmp_path: Path
) -> None:
    """Every command, loud and quiet, where the marked key opens the registry: not in what is said, kept, sent, served.

    A `.env` is not packed. A model that prints its environment, raises it and returns it tells nothing of what opens
    the registry. No process has a secret among its arguments. And after all of them, whatever the umask, nothing below
    HOME is open to others.
    """
    cluster = kubeconfig(tmp_path, f"http://me:{WORD}@127.0.0.1:9", token=WORD)
    container = marked_azurite.new_container()
    env = ELSEWHERE | {"AZURE_STORAGE_CONNECTION_STRING": marked_azurite.connection_string, "KUBECONFIG": str(cluster)}
    one = desk(f"azure://{container}", **env)
    url = f"{marked_azurite.endpoint}/{container}"
    store = open_store(url, env)
    jobs = JobRegistry(store)
    with Arguments() as arguments, contextlib.closing(store), contextlib.ExitStack() as stack:
        stack.callback(os.umask, os.umask(0))
        assert one("doctor").code == 0, "the key does open it"
        codes = {}
        for name, argv in CASES.items():
            if name == "serve":
                continue
            codes[name] = one(*argv, "-vv").code
            if name == "submit":
                until(lambda: (job := jobs.get_job("job")) and job.is_terminal, "the job to end")
            if name != "submit":
                one(*argv, "-q")
        with serving(one.cli, "-vv", "--sync-every", "1h") as server:
            server.filled()
            paths = ["/jobs", "/jobs/job", "/charts", "/api/v1/jobs", "/api/v1/jobs/job", "/api/v1/events"]
            for path in [*paths, "/metrics", "/healthz", "/nope"]:
                answer = server.ask(path)
                assert (path, seen(answer.text), seen(str(answer.headers))) == (path, set(), set())
            assert seen(server.stop()[1]) == set()
        # The runner that resume has started works on the task that failed, and fails again.
        until(lambda: (job := jobs.get_job("job.2")) and job.is_terminal, "its child to end")
        assert seen_in_store(store) == {}
        outputs = show_packs(store)
        held = [outputs.get(key) for key in outputs.list_keys(results_prefix("job"))]
        told = [json.loads(one.value) for one in held if one is not None]
    assert {name: code_ for name, code_ in codes.items() if code_ in (1, 4, 5)} == {}
    assert one.kept() == {}
    assert one.open_to_others() == {}
    assert any(one.top.rglob("runner.log")), "there was something to look at"
    assert [("HOME" in each, SECRET_VARIABLES & each.keys()) for each in told] == [(True, set())], "the model did tell"
    assert any(b"worker.py" in each for each in arguments.found), "the worker was seen"
    assert {each for each in arguments.found if seen(each)} == set()


@pytest.mark.claim("Models do not see what opens the registry")
def test_a_model_that_reads_its_data_with_them_is_passed_what_is_named() -> None:
    """By MOPS_JOBS_MODEL_ENV, and no more than that; what is not a secret of a registry stays in any case."""
    env = {"AWS_SECRET_ACCESS_KEY": "a", "AWS_SESSION_TOKEN": "b", "AZURE_STORAGE_KEY": "c", "PATH": "/bin"}
    env["MOPS_JOBS_NOTIFY_ME"] = "d"
    assert model_environment(env) == {"PATH": "/bin"}
    named = {"MOPS_JOBS_MODEL_ENV": "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN"}
    passed = {"AWS_SECRET_ACCESS_KEY": "a", "AWS_SESSION_TOKEN": "b", "PATH": "/bin"}
    assert model_environment(env | named) == passed | named


# --- one that does not ----------------------------------------------------------------------------------------------

STRING = "AZURE_STORAGE_CONNECTION_STRING"
BY_KEY = f"AccountName={ACCOUNT};AccountKey={OTHER_KEY}"
FAILING: dict[str, tuple[str, dict[str, str]]] = {
    "a wrong key": ("azure://c-1", {STRING: BY_KEY + ";BlobEndpoint=AZURITE"}),
    "a wrong key, by itself": ("AZURITE/c-1", {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": OTHER_KEY}),
    "a wrong SAS": ("AZURITE/c-1", {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_SAS_TOKEN": SAS}),
    "a port that is closed": ("azure://c-1", {STRING: BY_KEY + ";BlobEndpoint=CLOSED"}),
    "a SAS, and a port that is closed": ("azure://c-1", {STRING: f"BlobEndpoint=CLOSED;SharedAccessSignature={SAS}"}),
    "a SAS that breaks the line": (
        "AZURITE/c-1",
        {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_SAS_TOKEN": f"{SAS}\r\nx: {WORD}"},
    ),
    "a key that is none": ("azure://c-1", {STRING: f"AccountName={ACCOUNT};AccountKey={WORD}"}),
    "a string without semicolons": ("azure://c-1", {STRING: BY_KEY.replace(";", " ")}),
    "a string in place of the account": ("azure://c-1", {"AZURE_STORAGE_ACCOUNT": BY_KEY}),
    "a password in the endpoint": ("azure://c-1", {STRING: f"{BY_KEY};BlobEndpoint=https://me:{WORD}@127.0.0.1:9/"}),
    "plain http": ("azure://c-1", {STRING: f"BlobEndpoint=http://10.0.0.1/a;SharedAccessSignature={SAS}"}),
    "a proxy": (PUBLIC, {STRING: f"AccountName=acct;AccountKey={OTHER_KEY}"}),
    "a SAS in the URL": (f"{PUBLIC}?{SAS}", {}),
    "a password in the URL": (f"https://me:{WORD}@acct.blob.core.windows.net/c-1", {}),
    "a string in place of the URL": (BY_KEY, {}),
}


@pytest.mark.claim("No secret is printed, kept, sent or served")
@pytest.mark.parametrize("kind", FAILING)
def test_no_secret_leaves_a_run_that_fails(marked_azurite: Azurite, desk: Callable[..., Desk], kind: str) -> None:
    """Every command, where the registry refuses, does not answer, or cannot be meant: the reason comes without it."""
    registry, env = FAILING[kind]

    def filled(text: str) -> str:
        return text.replace("AZURITE", marked_azurite.endpoint).replace("CLOSED", f"http://127.0.0.1:9/{ACCOUNT}")

    one = desk(filled(registry), **ELSEWHERE, **{name: filled(text) for name, text in env.items()})
    codes = {}
    for name, argv in CASES.items():
        if name == "serve":
            continue
        more = ("--dry-run",) if name == "submit" else ()
        codes[name] = one(*argv, *more, "-vv" if len(codes) % 2 else "-q").code
    assert codes["sync"] in (2, 4, 5), "it does fail"
    assert one.kept() == {}


@pytest.mark.claim("A secret in a registry URL is refused and not repeated")
@pytest.mark.parametrize("way", ["environment", "flag", "project file", "user file"])
@pytest.mark.parametrize("secret", [f"{PUBLIC}?{SAS}", f"https://me:{WORD}@acct.blob.core.windows.net/c-1", BY_KEY])
def test_a_secret_in_the_place_of_the_registry_is_not_repeated(
    desk: Callable[..., Desk], way: str, secret: str
) -> None:
    """By whichever way the URL came in: refused with 2, in one sentence that names the way."""
    one = desk(secret if way == "environment" else "")
    written = f'registry = "{secret}"\n'
    if way == "project file":
        (one.home / ".mops-jobs.toml").write_text(written)
    if way == "user file":
        (one.top / ".config" / "mops-jobs").mkdir(parents=True)
        (one.top / ".config" / "mops-jobs" / "config.toml").write_text(written)
    flag = ("--registry", secret) if way == "flag" else ()
    for argv in (("list", "-vv"), ("config", "show", "-q"), ("submit", "study.json", "--auto", "-vv")):
        ran = one(*argv, *flag)
        assert (ran.code, len(sentences(ran.err))) == (2, 1)
        assert ("file" if way.endswith("file") else way) in ran.err


@pytest.mark.claim("No secret is in kept submissions")
def test_what_is_kept_while_the_registry_is_away_has_no_secret(desk: Callable[..., Desk]) -> None:
    """A submission that waits for its registry: its files, the runner's messages and its arguments."""
    away = f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint=http://127.0.0.1:9/{ACCOUNT}"
    one = desk("azure://c-1", **ELSEWHERE, **{STRING: away})
    with Arguments() as arguments:
        assert one(*CASES["submit"], "-vv").code == 0
        directory = JobDir.for_job("job", one.cli.env).path
        assert is_alive(one.runner("job"))
        until(lambda: list(directory.glob("spool*")) or (directory / "runner.log").stat().st_size, "it to work")
        kept = one.kept()
    assert kept == {}
    assert (directory / "outbox.db").exists()
    assert any(b"\0run\0job\0" in each for each in arguments.found), "the runner was seen"
    assert {each for each in arguments.found if seen(each)} == set()


@pytest.mark.claim("These permissions are enough")
def test_the_least_permission_of_each_role_is_enough(marked_azurite: Azurite, desk: Callable[..., Desk]) -> None:
    """What SECURITY.md says of a SAS: `rcwl` submits, runs and reports, `rl` looks, and no more than that."""
    container = marked_azurite.new_container()
    with contextlib.closing(open_store(f"azure://{container}", {STRING: marked_azurite.connection_string})) as store:
        store.create_if_absent("made", b"beforehand")

    def signed(permission: str) -> str:
        end = datetime.now(UTC) + timedelta(hours=1)
        return generate_container_sas(ACCOUNT, container, account_key=ACCOUNT_KEY, permission=permission, expiry=end)

    account = {"AZURE_STORAGE_ACCOUNT": ACCOUNT}
    one = desk(f"{marked_azurite.endpoint}/{container}", **account, AZURE_STORAGE_SAS_TOKEN=signed("rcwl"))
    writing = ["register", "progress", "update", "cancel"]
    assert one(*CASES["submit"], "--wait").code == 104, "one of its tasks fails, as asked"
    assert {name: one(*CASES[name]).code for name in writing} == {
        "register": 0, "progress": 0, "update": 0, "cancel": 6
    }  # fmt: skip
    one.cli.env["AZURE_STORAGE_SAS_TOKEN"] = signed("rl")
    reading = [
        "sync",
        "list",
        "status",
        "tasks",
        "summary",
        "query",
        "events",
        "logs",
        "results",
        "provenance",
        "diff",
        "metrics",
        "doctor",
    ]
    assert {name: code_ for name in reading if (code_ := one(*CASES[name]).code)} == {}
    assert one("register", "b").code == 4


# --- bundles --------------------------------------------------------------------------------------------------------


@pytest.mark.claim("`submit --auto` leaves out where secrets are kept")
def test_where_secrets_are_kept_is_not_packed_and_told(desk: Callable[..., Desk]) -> None:
    """A bundle is for all who may read the registry. A rule of the user's own ends the warning, or packs the file."""
    one = desk("")
    for name in (".env.local", ".env.example", ".ssh/id_rsa", "deploy.pem", "sub/.netrc"):
        (one.home / name).parent.mkdir(exist_ok=True)
        (one.home / name).write_text("x")
    with pack(one.home) as packed:
        assert packed.names == {".env.example", "model.py", "study.json"}
        assert packed.withheld == (".env", ".env.local", ".ssh/", "deploy.pem", "sub/.netrc")
    err = one("submit", "study.json", "--auto", "--dry-run", "-q").err
    assert sentences(err)[0].startswith(
        "warning: Left out of the bundle, because it may hold secrets: .env, .env.local,"
    )
    (one.home / ".gitignore").write_text(".env*\n")
    (one.home / ".modelopsignore").write_text("*.pem\n!sub/.netrc\n.ssh\n")
    with pack(one.home) as packed:
        assert packed.withheld == ()
        assert "sub/.netrc" in packed.names
        assert not {".env", "deploy.pem"} & packed.names


# --- clusters -------------------------------------------------------------------------------------------------------


@pytest.mark.claim("The value of a Secret is never seen by mops-jobs", "No secret is in Kubernetes manifests")
def test_a_kubernetes_job_names_the_secret_and_holds_none() -> None:
    """Whatever the environment of the launch: the manifest is read by all who may read Jobs there."""
    env = ELSEWHERE | {STRING: BY_KEY, "AZURE_STORAGE_SAS_TOKEN": SAS, "AZURE_STORAGE_KEY": ACCOUNT_KEY}
    launch = Launch(job_id="a", registry_url="azure://c-1", options={"image": "i", "secret": "registry-credentials"})
    manifest = build_manifest(launch, namespace="n", launch_id="l", env=env)
    assert seen(json.dumps(manifest)) == set()
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "registry-credentials"}}]


@pytest.mark.claim("No secret is in Kubernetes manifests")
@pytest.mark.parametrize(
    ("server", "token", "text"),
    [
        (f"http://me:{WORD}@127.0.0.1:9", WORD, None),
        (None, WORD + "\nx", None),
        (None, WORD, f"users:\n- token: '{WORD}\n"),
        (None, WORD, f"token: {WORD}: x\n"),
        (None, WORD, f"token: @{WORD}\n"),
    ],
    ids=["a password in the address", "a line break in the token", "an open quote", "two colons", "a stray mark"],
)
def test_no_error_of_a_cluster_tells_what_is_in_the_kubeconfig(
    tmp_path: Path, server: str | None, token: str, text: str | None
) -> None:
    """Neither the address' password, nor the header that could not be sent, nor the line that is not YAML."""
    with _server(403) as (port, _):
        path = kubeconfig(tmp_path, server or f"http://127.0.0.1:{port}", token=token)
        if text is not None:
            path.write_text(text)
        with pytest.raises(EngineError) as caught:
            KubernetesEngine({"KUBECONFIG": str(path)}).state({"job_id": "a", "k8s_name": "a"})
    assert seen("".join(traceback.format_exception(caught.value)) + str(caught.value.hint)) == set()


@pytest.mark.claim("A secret in a Dask address is refused")
@pytest.mark.parametrize(
    "address", [f"tcp://me:{WORD}@h:1", f"tcp://h:1?token={WORD}", f"tcp://h:1;token={WORD}", f"tls://{WORD}@h:1"]
)
@pytest.mark.parametrize("by_flag", [True, False])
def test_a_secret_in_the_address_of_a_scheduler_is_not_repeated(
    desk: Callable[..., Desk], address: str, by_flag: bool
) -> None:
    """An address is kept in the record, so none with a secret is taken."""
    one = desk("", **({} if by_flag else {"DASK_SCHEDULER_ADDRESS": address}))
    flag = ("--scheduler", address) if by_flag else ()
    ran = one("submit", "study.json", "--auto", "--engine", "dask", "-vv", *flag)
    assert (ran.code, "invalid scheduler" in ran.err) == (2, True)
    assert one.kept() == {}


# --- files ----------------------------------------------------------------------------------------------------------

READABLE = ("fetched", "table.csv", "metrics.prom")
"""The files that a user has asked for, with the mode of their umask: results, and metrics. Another user, node_exporter,
reads the latter."""


@pytest.mark.claim(
    "What mops-jobs keeps is 0600, its directories 0700",
    "Unpacked code is private",
    "`results --download` and `metrics --textfile` follow your umask",
)
@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_what_is_kept_is_its_owners_alone(cli: Cli, tmp_path: Path, umask: int) -> None:
    """Whatever the umask, files are 0600 and directories 0700, those above them that were missing as well.

    Unpacked code keeps its executable bits, and the model's own Python adds `__pycache__` within, out of reach.
    """
    here = code(tmp_path / "code")
    study = {"model": "model:simulate", "parameter_sets": [{"x": 1}], "outputs": ["result.json"]}
    (tmp_path / "study.json").write_text(json.dumps(study))
    top = tmp_path / "home"
    top.mkdir(mode=0o700)
    base = {"HOME": str(top), "MOPS_JOBS_REGISTRY": "", "MOPS_JOBS_CACHE": ""}
    away = {"MOPS_JOBS_REGISTRY": "http://127.0.0.1:9/devstoreaccount1/c-1"}

    def ran(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*argv),
            env={**environment(cli), **base, **env},
            cwd=here,
            umask=umask,
            text=True,
            capture_output=True,
        )

    pids = []
    submit = ("submit", str(tmp_path / "study.json"), "--auto", "--workers", "1", "--job-id")
    for job_id, env in (("job", {}), ("kept", away)) if umask == 0 else (("job", {}),):
        assert ran(*submit, job_id, **env).returncode == 0
        directory = JobDir.for_job(job_id, base).path
        pids.append(int(json.loads((directory / "runner.json").read_text())["pid"]))
    try:
        until(lambda: not is_alive(pids[0]), "the runner to end")
        assert ran("results", "job", "--download", str(top / "fetched")).returncode == 0
        assert ran("results", "job", "--table", str(top / "table.csv")).returncode == 0
        assert ran("metrics", "--textfile", str(top / "metrics.prom")).returncode == 0
        paths = [path for path in top.rglob("*") if not path.is_symlink() and "__pycache__" not in path.parts]
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths if path.exists()}
    finally:
        for pid in pids:
            kill(pid)
    ours = {path: mode for path, mode in modes.items() if path.relative_to(top).parts[0] not in READABLE}
    assert {path: oct(mode) for path, mode in ours.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}
    names = {"registry.db", "runner.json", "runner.log", "shard-0.lock", "model.py"}
    assert names | ({"outbox.db", "launched.json"} if umask == 0 else set()) <= {path.name for path in ours}
    assert modes[top / "metrics.prom"] == modes[top / "table.csv"] == 0o666 & ~umask
    assert {mode for path, mode in modes.items() if path.name == "result.json"} == {0o666 & ~umask}


@pytest.mark.claim(
    "What mops-jobs keeps is 0600, its directories 0700", "A temporary directory that others may enter is not used"
)
@pytest.mark.parametrize("trap", ["of another user", "open to others", "a link", "a file"])
def test_a_planted_temporary_directory_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str) -> None:
    """Any user may make a directory of our name below the temporary one, and would own what we put or run there.

    The cache refuses; the file, which has to be unpacked somewhere, takes a directory of an unforeseeable name.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if trap == "of another user":  # than we say that we are
        real = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: real + 1)
    planted = tmp_path / f"mops-jobs-{os.getuid()}"
    if trap == "a link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        planted.symlink_to(tmp_path / "theirs")
    elif trap == "a file":
        planted.touch(mode=0o600)
    else:
        planted.mkdir(mode=0o700)
        planted.chmod(0o770 if trap == "open to others" else 0o700)
    with pytest.raises(CacheError, match="Other users may have access"):
        user_dirs.make_temporary_directory()
    spec = importlib.util.spec_from_file_location("unpack", ROOT / "onefile" / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    taken = Path(unpack._private_directory(lambda place: ""))
    assert taken != planted
    assert (taken.parent, stat.S_IMODE(taken.stat().st_mode)) == (tmp_path, 0o700)
    shutil.rmtree(taken)


# --- TLS ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _server(status: int, certificate: Path | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield a server on this machine that answers everything with a status: its port and the requested paths."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "no"}
            body = json.dumps(told).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = answer  # noqa: N815 - its names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that does not trust us hangs up
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.server_address[1], asked
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate for localhost that is signed by itself alone, with its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.mark.claim("TLS is verified")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"PYTHONHTTPSVERIFY": "0", "AZURE_CLI_DISABLE_CONNECTION_VERIFICATION": "1", "CURL_INSECURE": "1"},
        {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "", "SSL_CERT_FILE": ""},
    ],
    ids=["as it is", "what switches it off elsewhere", "empty"],
)
def test_a_server_whose_certificate_nobody_signed_is_sent_nothing(
    desk: Callable[..., Desk], certificate: Path, settings: dict[str, str]
) -> None:
    """One sentence says so, and no setting lets it through."""
    with _server(403, certificate) as (port, asked):
        string = f"AccountName=acct;AccountKey={OTHER_KEY};BlobEndpoint=https://localhost:{port}/acct"
        ran = desk("azure://c-1", **{STRING: string}, **settings)("sync")
    assert (ran.code, asked) == (5, [])
    assert sentences(ran.err) == [
        f"error: Cannot reach https://localhost:{port}/acct/c-1: its TLS certificate is not trusted."
    ]


@pytest.mark.claim("TLS is verified")
@pytest.mark.parametrize(("url", "variable"), [("dynamodb://jobs", "DYNAMODB"), ("s3://jobs/a", "S3")])
def test_no_table_is_asked_of_a_server_whose_certificate_nobody_signed(
    cli: Cli, certificate: Path, monkeypatch: pytest.MonkeyPatch, url: str, variable: str
) -> None:
    """Nor a bucket. Nothing is sent, as in Azure, and no setting but an authority of one's own lets it through."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WORD)
    for switch in ("PYTHONHTTPSVERIFY", "AWS_VERIFY_SSL", "AWS_NO_VERIFY_SSL"):
        monkeypatch.setenv(switch, "0")
    with _server(403, certificate) as (port, asked):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{variable}", f"https://localhost:{port}")
        ran = cli("sync", MOPS_JOBS_REGISTRY=url)
        assert (ran.code, asked) == (5, [])
        assert "its TLS certificate is not trusted" in ran.err
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert (cli("sync", MOPS_JOBS_REGISTRY=url).code, len(asked)) == (4, 1)
    assert WORD not in ran.err


@pytest.mark.claim("TLS is verified")
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_of_ones_own_is_named_as_everywhere(
    desk: Callable[..., Desk], certificate: Path, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its certificate in one of these, the server is asked; a file that is not there is told, and nothing sent."""
    with _server(403, certificate) as (port, asked):
        string = f"AccountName=acct;AccountKey={OTHER_KEY};BlobEndpoint=https://localhost:{port}/acct"
        one = desk("azure://c-1", **{STRING: string, variable: str(certificate)})
        assert (one("sync").code, len(asked)) == (4, 1)
        monkeypatch.setenv(variable, str(tmp_path / "none.pem"))
        ran = one("sync")
    assert (ran.code, len(asked)) == (2, 1)
    assert sentences(ran.err) == [
        f"error: invalid {variable} '{tmp_path}/none.pem': expected a file of TLS authorities."
    ]


@pytest.mark.claim("TLS is verified")
def test_a_cluster_whose_certificate_nobody_signed_is_sent_nothing(tmp_path: Path, certificate: Path) -> None:
    """Unless the kubeconfig, or SSL_CERT_FILE, names the authority."""
    record = {"job_id": "a", "k8s_name": "a", "k8s_namespace": "n"}
    with _server(403, certificate) as (port, asked):
        path = kubeconfig(tmp_path, f"https://localhost:{port}", token=WORD)
        with pytest.raises(EngineError, match="certificate verify failed") as caught:
            KubernetesEngine({"KUBECONFIG": str(path)}).state(record)
        assert (asked, seen(str(caught.value))) == ([], set())
        document = json.loads(path.read_text())
        document["clusters"][0]["cluster"]["certificate-authority"] = str(certificate)
        path.write_text(json.dumps(document))
        with pytest.raises(EngineAccessError, match="does not permit"):
            KubernetesEngine({"KUBECONFIG": str(path)}).state(record)
    assert len(asked) == 1


@pytest.mark.claim("`insecure-skip-tls-verify` is obeyed and named")
@pytest.mark.parametrize("is_set", [True, False])
def test_a_kubeconfig_that_switches_the_check_off_is_obeyed_and_told_once(
    cli: Cli, spawn: Spawn, tmp_path: Path, certificate: Path, is_set: bool
) -> None:
    """As kubectl obeys it. One sentence on stderr names context and file, however often the cluster is asked."""
    for job in ("a", "b"):
        cli.ok("register", job, "--k8s-name", job, "--namespace", "n", "--engine", "kubernetes")
        cli.ok("update", job, "running")
    with _server(404, certificate) as (port, asked):
        path = kubeconfig(tmp_path, f"https://localhost:{port}", token=WORD)
        document = json.loads(path.read_text())
        document["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = is_set
        path.write_text(json.dumps(document))
        _, err = spawn("reconcile", KUBECONFIG=str(path)).communicate()
    sentence = (
        f"warning: Context here of {path} has insecure-skip-tls-verify: any server at"
        f" https://localhost:{port} gets the credentials."
    )
    assert [line for line in err.splitlines() if "insecure" in line] == ([sentence] if is_set else [])
    assert len(asked) == (2 if is_set else 0)
    assert WORD not in err


# --- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.claim("The page reads the cache and writes nothing")
def test_no_path_of_the_page_leads_out_of_what_is_its_own(cli: Cli, jobs: JobRegistry) -> None:
    """Nor does a header lend it another name: a page elsewhere that points its name at us reads nothing."""
    add(jobs, "a-job-of-ours")
    with serving(cli) as server:
        server.filled()
        assert "a-job-of-ours" in server.ask("/api/v1/jobs").text, "it does answer"
        for path in ("/../mops_jobs.py", "/..%2f..%2fapp.py", "/%2e%2e/app.py", "//etc/passwd", "/..\\app.py", "/"):
            assert server.ask(f"/static{path}").status in (308, 400, 404)
        evil = {"Host": "evil.example"}
        for more in (
            {},
            {"X-Forwarded-Host": "localhost"},
            {"Forwarded": "host=localhost"},
            {"Origin": "http://localhost"},
        ):
            answer = server.ask("/api/v1/jobs", **evil, **more)
            assert (answer.status, "a-job-of-ours" in answer.text) == (421, False)
        answer = server.ask("/api/v1/jobs", Origin="http://evil.example")
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
        answer = server.ask("/api/v1/jobs", "POST", **{"X-HTTP-Method-Override": "GET"})
        assert answer.status == 405
        assert server.ask("/api/v1/jobs", "GET", **{"X-HTTP-Method-Override": "DELETE"}).status == 200
