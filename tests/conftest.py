"""Fixtures shared by all tests: a clean environment, a real Azurite and dynalite, one empty store of each backend."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import hypothesis.configuration
import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.runner import reporter, retry
from mopsjobs.store import open_store
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import REMOTE_URL, Cli, Clock, LineStore, Remote, Spawn, command, environment
from support.kubernetes import Api
from support.runs import Given, code, place, study

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

    from mopsjobs.store.base import VersionedStore

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # published
START_SECONDS = 60
AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
MAX_WORKERS = 4  # each has an Azurite, a Dask cluster and a browser of its own

# No test is judged by the clock, none depends on what an earlier run found, and nothing is written outside build/.
hypothesis.settings.register_profile("mops-jobs", deadline=None, database=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("mops-jobs")
hypothesis.configuration.set_hypothesis_home_dir(ROOT / "build" / "hypothesis")


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what is to run in the background with Ctrl-C ignored, and every process of the tests would inherit
    # that; some are stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker for each core, up to four, where all tests are run; this process alone for those that are named."""
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS) if is_whole else 0


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each test gets a home. pytest would number them, and look at all there are for the next number."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, homes: Path) -> None:
    """No test sees the settings, the home, the proxy or the TLS authorities of whoever runs it."""
    for name in list(os.environ):
        ours = name.startswith(("MOPS_", "AZURE_", "AWS_", "XDG_")) and not name.startswith("MOPS_TEST_")
        if ours or name in ("NO_COLOR", *AUTHORITIES) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = Path(tempfile.mkdtemp(dir=homes))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # where boto3 would ask for credentials last
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(home / name.lower()))


class Server:
    """A real server, a program of Node.js, on a free port of this machine. What it holds is gone when it stops."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.settings: dict[str, str] = {}
        """What it is told by its environment."""
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def command(self) -> list[str]:
        """The words that start it."""
        raise NotImplementedError

    def start(self) -> None:
        with (self._directory / "server.out").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self._directory,
                env={**os.environ, **self.settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        for _ in range(START_SECONDS * 10):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
                break
        self.stop()
        said = (self._directory / "server.out").read_text(errors="replace")[-2000:]
        pytest.fail(f"{type(self).__name__} did not start: {said}")

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class Azurite(Server):
    """A server of Azure Blob Storage's API, with the account that everybody knows or with another."""

    def __init__(self, directory: Path, account: str = ACCOUNT, key: str = ACCOUNT_KEY) -> None:
        super().__init__(directory)
        self.account, self.key = account, key
        self.settings = {"AZURITE_ACCOUNTS": f"{account}:{key}"}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.account}"

    @property
    def connection_string(self) -> str:
        account = f"DefaultEndpointsProtocol=http;AccountName={self.account};AccountKey={self.key};"
        return f"{account}BlobEndpoint={self.endpoint};"

    def new_container(self) -> str:
        """A container name that nobody has used. The container is not made."""
        return f"test-{uuid.uuid4().hex}"

    def client(self, container: str) -> ContainerClient:
        """The plain SDK, to look behind the store. Close it."""
        from azure.storage.blob import ContainerClient

        return ContainerClient.from_connection_string(self.connection_string, container)

    def command(self) -> list[str]:
        script = _installed("azurite", "dist/src/blob/main.js")
        place = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--inMemoryPersistence"]
        return ["node", script, *place, "--disableTelemetry", "--skipApiVersionCheck", "--silent"]


class Dynalite(Server):
    """A server of DynamoDB's API. It believes every signature, but wants one."""

    def new_table(self) -> str:
        """The URL of a table that nobody has used. The table is not made."""
        return f"dynamodb://test-{uuid.uuid4().hex}"

    @property
    def env(self) -> dict[str, str]:
        """What makes boto3 talk to it."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{self.port}",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example",
        }

    def client(self) -> Any:
        """The plain SDK, to look behind the store. Close it."""
        import boto3

        return boto3.client(
            "dynamodb",
            endpoint_url=self.env["AWS_ENDPOINT_URL_DYNAMODB"],
            region_name=self.env["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
        )

    def command(self) -> list[str]:
        script = _installed("dynalite", "cli.js")
        return ["node", script, "--host", "127.0.0.1", "--port", str(self.port), "--createTableMs", "0"]


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """One Azurite for the whole run. A test that stops its server asks for `private_azurite`."""
    server = Azurite(tmp_path_factory.mktemp("azurite"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def private_azurite(tmp_path: Path) -> Iterator[Azurite]:
    """An Azurite of the test's own, to be stopped and started at will. What it holds is gone when it stops."""
    server = Azurite(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def dynalite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dynalite]:
    """One dynalite for the whole run."""
    server = Dynalite(tmp_path_factory.mktemp("dynalite"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def dynalite(dynalite_server: Dynalite, monkeypatch: pytest.MonkeyPatch) -> Dynalite:
    """A dynalite that boto3 in this process finds."""
    for name, value in dynalite_server.env.items():
        monkeypatch.setenv(name, value)
    return dynalite_server


class Backend:
    """A place for one store: `open()` gives one client after another to the same, at first missing, data."""

    def __init__(self, name: str, url: str, open_one: Callable[[], VersionedStore], exists: Callable[[], bool]) -> None:
        self.name = name
        self.url = url
        self._open_one = open_one
        self.exists = exists
        self.env: dict[str, str] = {}
        """What another process needs in its environment to find the place."""
        self._opened: list[VersionedStore] = []

    def open(self) -> VersionedStore:
        store = self._open_one()
        self._opened.append(store)
        return store

    def close(self) -> None:
        for store in self._opened:
            store.close()


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("azure", marks=pytest.mark.azurite),
        pytest.param("dynamodb", marks=pytest.mark.dynalite),
    ]
)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Each backend in turn. A new one is one line here."""
    if request.param == "memory":
        one = InMemoryVersionedStore()
        made = Backend("memory", "memory:", lambda: one, lambda: True)
    elif request.param == "sqlite":
        path = tmp_path / "registry.db"
        url = f"sqlite://{path}"
        made = Backend("sqlite", url, lambda: open_store(url, {}), path.exists)
    elif request.param == "dynamodb":
        tables: Dynalite = request.getfixturevalue("dynalite")
        url = tables.new_table()
        made = Backend("dynamodb", url, lambda: open_store(url, {}), lambda: _table_exists(tables, url))
        made.env = tables.env
    else:
        server: Azurite = request.getfixturevalue("azurite")
        container = server.new_container()
        url = f"{server.endpoint}/{container}"
        made = Backend("azure", url, lambda: open_store(url, {}), lambda: _container_exists(server, container))
    yield made
    made.close()


@pytest.fixture
def store(backend: Backend) -> VersionedStore:
    """An empty store of each backend in turn."""
    return backend.open()


def _container_exists(server: Azurite, container: str) -> bool:
    with server.client(container) as client:
        return client.exists()


def _table_exists(server: Dynalite, url: str) -> bool:
    with contextlib.closing(server.client()) as client:
        return url.removeprefix("dynamodb://") in client.list_tables()["TableNames"]


def _installed(name: str, script: str) -> str:
    """A script of a server that `./build.sh test` installs."""
    modules = Path(os.environ.get(f"MOPS_TEST_{name.upper()}") or ROOT / "build" / name / "node_modules")
    path = modules / name / script
    if not path.is_file():
        pytest.fail(f"There is no {name} at {modules}: run ./build.sh test, which installs it.")
    return str(path)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# --- the command, run in this process: see support/cli.py -----------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until it is moved."""
    return Clock()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock) -> Cli:
    """The command, with an embedded registry and a cache of its own."""
    home = tmp_path / "cli"
    home.mkdir()
    monkeypatch.chdir(home)
    return Cli(home, clock, capsys)


@pytest.fixture
def jobs(cli: Cli) -> JobRegistry:
    """The embedded registry of `cli`, as another program on this machine uses it."""
    return JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}), now=cli.clock.now, sleep=cli.clock.sleep)


@pytest.fixture
def remote(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """Gives `cli` a registry across a network, which can be cut off."""
    made = Remote(cli.clock)
    cli.env["MOPS_JOBS_REGISTRY"] = REMOTE_URL
    monkeypatch.setattr("mopsjobs.store.open_store", lambda url, env, **_: made.store)
    return made


@pytest.fixture
def anywhere(cli: Cli, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> VersionedStore:
    """Gives `cli` a registry on each backend in turn, and returns its store."""
    opened = backend.open()
    if backend.name == "memory":
        cli.env["MOPS_JOBS_REGISTRY"] = REMOTE_URL
        monkeypatch.setattr("mopsjobs.store.open_store", lambda url, env, **_: LineStore(opened))
    else:
        cli.env |= {"MOPS_JOBS_REGISTRY": backend.url, **backend.env}
    return opened


@pytest.fixture
def spawn(cli: Cli) -> Iterator[Spawn]:
    """Starts the command as a process of its own, whose output is caught; it is gone when the test has ended."""
    with contextlib.ExitStack() as stack:

        def spawned(*argv: str, **env: str) -> subprocess.Popen[str]:
            pipe = subprocess.PIPE
            process = subprocess.Popen(command(*argv), env=environment(cli, **env), stdout=pipe, stderr=pipe, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield spawned


# --- the runner, run in this process: see support/runs.py -----------------------------------------------------------


@pytest.fixture
def quick_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is written and read more often than a real one, and an outage is looked at sooner."""
    monkeypatch.setattr(reporter, "PROGRESS_SECONDS", 0.02)
    monkeypatch.setattr(reporter, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(reporter, "MAX_PAUSE", 0.1)
    monkeypatch.setattr(retry, "MAX_PAUSE", 0.1)


@pytest.fixture
def line() -> LineStore:
    """A store across a line that can be cut."""
    return LineStore(InMemoryVersionedStore())


@pytest.fixture
def registry(line: LineStore) -> JobRegistry:
    """The registry in that store."""
    return JobRegistry(line, sleep=lambda _seconds: None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with the model."""
    return code(tmp_path / "code")


@pytest.fixture
def given(line: LineStore, registry: JobRegistry, model: Path) -> Given:
    """Submits job `job` to that store."""

    def submitted(sets: list[dict[str, Any]], **fields: Any) -> None:
        manifest = place(line, "job", study(sets, **fields), model)
        registry.register_job("job", tasks_total=manifest.tasks_total)

    return submitted


@pytest.fixture
def api() -> Iterator[Api]:
    """An API server with nothing in it."""
    server = Api()
    yield server
    server.close()
