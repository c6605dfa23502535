"""Fixtures shared by all tests: a clean environment, real servers, one empty store of each backend.

A unit test runs with pytest alone: a fixture imports what it needs itself.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store.base import VersionedStore
    from support.cli import Cli, Clock, LineStore, Remote, Spawn
    from support.kubernetes import Api
    from support.notify import Hook
    from support.runs import Bench
    from support.servers import S3, Azurite, Backend, Dynalite

ROOT = Path(__file__).resolve().parent.parent
AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
MAX_WORKERS = 4  # each has an Azurite, a Dask cluster and a browser of its own
FIXTURES_OF_MARKER = {
    "azurite": ("azurite", "older_azurite", "private_azurite", "marked_azurite"),
    "dynalite": ("dynalite",),
    "s3": ("moto", "seaweedfs"),
    "browser": ("browser", "either_browser"),
    "dask": ("dask_cluster", "private_dask_cluster"),
    "slurm": ("slurm_cluster",),
    "prometheus": ("prometheus_program",),
    "zipapp": ("pyz",),
    "slow": ("spawn", "desk", "ran", "installed", "packages"),
}
"""The marker of the tests that use fixtures which start servers, or runners and other processes."""
MARKER_OF_FIXTURE = {fixture: marker for marker, fixtures in FIXTURES_OF_MARKER.items() for fixture in fixtures}
MARKERS = frozenset(FIXTURES_OF_MARKER)
"""All of these are left out by `--fast`. Tests whose fixtures cannot tell are marked by hand."""
STARTERS = ("subprocess", "work", "pool_of", "run_shard", "Worker")
"""A module in tests/unit that imports one of these starts processes. So its tests are marked `slow`."""
UNIT = str(ROOT / "tests" / "unit") + os.sep
IS_WHOLE = "is_whole"
TEMPROOT = "PYTEST_DEBUG_TEMPROOT"
"""The variable that tells pytest where to make its directories."""
MIN_MEMORY = 2 * 1024**3
"""Free bytes of a file system in memory, from which on it is used."""
SLOW_FOLDERS = ("commands", "contract", "integration", "resilience", "web")
"""Left out by `--fast`, unless they are named: commands and pages, backends, processes and servers, planted faults."""

# No test is judged by the clock, none depends on what an earlier run found, and nothing is written outside build/.
# A busy machine makes examples slowly; that says nothing about a claim.
with contextlib.suppress(ImportError):
    import hypothesis
    import hypothesis.configuration

    hypothesis.settings.register_profile(
        "mops-jobs",
        deadline=None,
        database=None,
        derandomize=True,
        max_examples=50,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("mops-jobs")
    hypothesis.configuration.set_hypothesis_home_dir(ROOT / "build" / "hypothesis")


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts a background job with Ctrl-C ignored, and every process of the tests would inherit that. Some
    # tests stop a process by Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONG = (
    "tests/commands/test_results_contrast.py::test_common_seeds_",
    "tests/contract/test_requests.py::test_a_sync_costs_what_changed[moto]",
    "tests/integration/test_calibrations.py::test_each_sampler_finds_the_planted_parameters[CMA",
    "tests/integration/test_calibrations.py::test_each_sampler_finds_the_planted_parameters[evolution]",
    "tests/integration/test_delta_sync.py::test_no_change_is_missed_in_dynamodb",
    "tests/integration/test_delta_sync.py::test_no_change_is_missed_in_s3",
    "tests/contract/test_views_over_stores.py::test_no_view_goes_back_in_azurite",
    "tests/integration/test_dask_engine.py::test_a_runner_that_is_told_to_stop_lets_tasks_on_dask_save",
    "tests/integration/test_dask_engine.py::test_a_scheduler_that_goes_away",
    "tests/integration/test_dask_engine.py::test_a_scheduler_that_says_nothing",
    "tests/integration/test_dask_engine.py::test_a_task_that_takes_its_dask_workers_along",
    "tests/integration/test_retention.py::test_no_event_comes_back_or_twice_in_memory",
    "tests/integration/test_example.py::test_a_wire_function_on_numpy",
    "tests/integration/test_extend.py::test_python_extends_and_replays",
    "tests/integration/test_kubernetes_stand_in.py::test_a_lost_node_hides_no_log_of_another[True]",
    "tests/integration/test_kubernetes_stand_in.py::test_what_a_missing_permission_costs[get pods/log]",
    "tests/integration/test_kubernetes_stand_in.py::test_what_a_missing_permission_costs[list ",
    "tests/integration/test_reduce.py::test_an_extension_reduces",
    "tests/integration/test_runner_process.py::test_a_budget_ends_racing_shards_though_one_is_killed[azurite]",
    "tests/integration/test_slurm_engine.py::test_a_task_of_a_requeued_shard_goes_on[time limit]",
    "tests/integration/test_slurm_engine.py::test_a_time_limit",
    "tests/integration/test_slurm_engine.py::test_tasks_that_never_began_have_no_attempt[time]",
    "tests/integration/test_scale.py::",
    "tests/project/test_doc_examples.py::test_examples_run_as_they_stand[docs/guides/ecosystem.md]",
    "tests/project/test_doc_examples.py::test_examples_run_as_they_stand[docs/guides/studies.md]",
    "tests/project/test_release.py::test_packages_do_not_depend_on_umask",
    "tests/project/test_zipapp.py::test_two_builds",
    "tests/resilience/test_crash_kills.py::test_a_killed_",
    "tests/resilience/test_storm.py::test_a_storm_",
    "tests/resilience/test_views.py::test_after_each_command_all_views_agree_with_the_model[azure]",
    "tests/web/test_browser.py::test_a_page_says_that_its_server_is_gone[/charts]",
    "tests/web/test_browser.py::test_a_page_says_that_its_server_is_gone[/jobs]",
    "tests/web/test_live.py::test_a_page_that_follows_is_as_one_that_is_opened[/jobs]",
    "tests/web/test_live.py::test_a_page_that_follows_is_as_one_that_is_opened[/jobs/night-04]",
)
"""Beginnings of the ids of storms, time windows, the longest crash trials, and other long tests with a shorter kind.
Only `--long` adds them, before a release. Each runs where it is named."""

LONG_ON_AZURITE = (
    "tests/integration/test_growing_jobs.py::test_a_c",
    "tests/integration/test_growing_jobs.py::test_a_job_that_waits",
    "tests/integration/test_growing_jobs.py::test_a_killed_worker",
    "tests/integration/test_growing_jobs.py::test_a_session_",
    "tests/integration/test_growing_jobs.py::test_a_task_",
    "tests/integration/test_growing_jobs.py::test_it_ends_",
    "tests/integration/test_growing_jobs.py::test_outputs_",
    "tests/integration/test_growing_jobs.py::test_sets_of_a_session_",
    "tests/integration/test_growing_jobs.py::test_threads_of_a_session_",
    "tests/integration/test_growing_jobs.py::test_views_",
    "tests/integration/test_killed_runners.py::test_a_runner_",
    "tests/integration/test_killed_runners.py::test_of_three_",
    "tests/integration/test_notebooks.py::",
    "tests/integration/test_python_api.py::test_a_study_",
    "tests/integration/test_python_api.py::test_t",
)
"""Beginnings of the ids of tests over an embedded registry and over an Azurite, of which the latter are as long ones.

Other tests of the same file run over both in any case: those of outages, of killed runners and of clients.
"""

FIRST = (
    "tests/commands/test_resume_local.py::test_a_job_in_an_outage_says_",
    "tests/integration/test_killed_runners.py::test_a_killed_runner_ends_its_job_as_partial[azurite]",
    "tests/integration/test_sharing.py::test_a_shard_whose_sets_are_decided_",
    "tests/integration/test_slurm_engine.py::test_a_requeued_shard_with_a_drop_",
    "tests/resilience/test_crash_kills.py::test_kills_",
    "tests/resilience/test_hostile.py::test_commands_over_a_hostile_registry_",
    "tests/resilience/test_hostile.py::test_no_record_leads_elsewhere_in_a_cluster",
    "tests/resilience/test_life.py::test_hours_",
    "tests/resilience/test_views.py::test_after_each_command_all_views_agree_with_the_model[sqlite]",
)
"""Beginnings of the ids of tests that take ten seconds or more. They run first, so that the last worker ends soon after
the others."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--fast` and `--long`."""
    parser.addoption("--long", action="store_true", help="also the longest tests")
    parser.addoption("--fast", action="store_true", help="only tests that need no server and no process of their own")


def pytest_configure(config: pytest.Config) -> None:
    """Put the directories of tests into memory where there is room: SQLite waits for the disk at each write."""
    config.option.long = config.option.long or not _is_whole(config)
    memory = Path("/dev/shm")
    if TEMPROOT in os.environ or not memory.is_dir() or not os.access(memory, os.W_OK):
        return
    told = os.statvfs(memory)
    if told.f_bavail * told.f_frsize >= MIN_MEMORY and not told.f_flag & os.ST_NOEXEC:
        os.environ[TEMPROOT] = str(memory)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip, with `--fast`, the folders whose tests take long."""
    is_slow = collection_path.parent == ROOT / "tests" and collection_path.name in SLOW_FOLDERS
    return True if is_slow and config.option.fast and _is_whole(config) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests, and leave them out of garbage collections. 13,000 tests make each take half a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test the markers of its fixtures. With `--fast`, deselect the tests that have such a marker.

    Raises:
        pytest.UsageError: if a test in tests/unit has one.
    """
    slow = set()
    for item in items:
        for name in MARKER_OF_FIXTURE.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKER_OF_FIXTURE[name])
        is_unit = str(item.path).startswith(UNIT)
        if is_unit and any(hasattr(getattr(item, "module", None), name) for name in STARTERS):
            item.add_marker("slow")
        if found := MARKERS & {mark.name for mark in item.iter_markers()}:
            slow.add(item)
            if is_unit and found != {"slow"}:
                raise pytest.UsageError(
                    f"{item.nodeid} needs a server: move it to tests/contract or tests/integration."
                )
    if config.option.fast:
        config.hook.pytest_deselected(items=list(slow))
        items[:] = [item for item in items if item not in slow]
    is_complete = _is_whole(config) and not config.option.fast
    begins = (*LONG, *LONG_ON_AZURITE, *FIRST) if is_complete else ()
    ids = [item.nodeid for item in items]
    config.option.unknown_long = [one for one in begins if not any(name.startswith(one) for name in ids)]
    if not config.option.long:
        left_out = {item for item in items if _is_long(item)}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    if is_complete:
        items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


def _is_long(item: pytest.Item) -> bool:
    is_on_azurite = "[azurite" in item.nodeid and item.nodeid.startswith(LONG_ON_AZURITE)
    return is_on_azurite or item.nodeid.startswith(LONG) or item.get_closest_marker("long") is not None


def _is_whole(config: pytest.Config) -> bool:
    """Return whether all tests run, and none is named. A worker of xdist gets all tests as if they were named."""
    if hasattr(config, "workerinput"):
        return bool(config.workerinput[IS_WHOLE])
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist whether all tests run."""
    node.workerinput[IS_WHOLE] = _is_whole(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers: two more than cores, up to four, for all tests; none for tests that are named.

    Many tests wait for servers and processes: three workers left a fifth of two cores idle. Tests of `--fast` do not
    wait, and each worker takes seconds to collect them.
    """
    more = 0 if config.option.fast else 2
    return min(len(os.sched_getaffinity(0)) + more, MAX_WORKERS) if _is_whole(config) else 0


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where each test gets a home. pytest would number them, and look at all there are for the next number."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, homes: Path) -> None:
    """Hide the settings, the home, the proxy and the TLS authorities of the user who runs the tests."""
    for name in list(os.environ):
        ours = name.startswith(("MOPS_", "AZURE_", "AWS_", "XDG_")) and not name.startswith("MOPS_TEST_")
        if ours or name in ("NO_COLOR", *AUTHORITIES) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = Path(tempfile.mkdtemp(dir=homes))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # where boto3 would ask for credentials last
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture(autouse=True)
def _patient_stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long for the servers of a test: on a busy machine, they answer some requests after seconds.

    Commands and runners that the test starts do so too.
    """
    marks = {mark.name for mark in request.node.iter_markers()}
    if "dask" in marks:
        from mopsjobs.engines import dask
        from support.runs import PATIENCE

        patient = f"import mopsjobs.engines.dask as engine; engine.CONNECT_SECONDS = {PATIENCE}; importlib"
        monkeypatch.setattr(dask, "_START", dask._START.replace(" importlib.", f" {patient}.", 1))
        monkeypatch.setattr(dask, "START_SECONDS", PATIENCE)
    if {"azurite", "dynalite", "s3"} & marks:
        from support.cli import command
        from support.runs import PATIENCE
        from support.servers import PATIENT_COMMAND

        monkeypatch.setattr("mopsjobs.store.network.BUDGET_SECONDS", PATIENCE)
        monkeypatch.setattr("support.cli.PROGRAM", ("-c", PATIENT_COMMAND))
        monkeypatch.setattr("mopsjobs.engines.local.command", command)


def _azurite(directory: Path, *, is_older: bool = False) -> Iterator[Azurite]:
    from bench.azurite import NEWEST, OLDER
    from support.servers import Azurite

    server = Azurite(directory, package=OLDER if is_older else NEWEST)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Yield one Azurite for the whole run. A test that stops its server asks for `private_azurite`."""
    yield from _azurite(tmp_path_factory.mktemp("azurite"))


@pytest.fixture(scope="session")
def older_azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Yield one Azurite of an older version for the whole run."""
    yield from _azurite(tmp_path_factory.mktemp("older-azurite"), is_older=True)


@pytest.fixture
def private_azurite(tmp_path: Path) -> Iterator[Azurite]:
    """Yield an Azurite of the test's own, to be stopped and started at will. What it holds is gone when it stops."""
    yield from _azurite(tmp_path)


def _set_environment(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def _server_of_aws(name: str) -> tuple[Any, Any]:
    """Return a fixture of one server for the whole run, and one of the same server that boto3 in this process finds."""

    @pytest.fixture(scope="session", name=f"{name}_server")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dynalite | S3]:
        from support.servers import S3, Dynalite

        directory = tmp_path_factory.mktemp(name)
        started = Dynalite(directory) if name == "dynalite" else S3(directory, name)
        yield started
        started.stop()

    @pytest.fixture(name=name)
    def found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Dynalite | S3:
        found: Dynalite | S3 = request.getfixturevalue(f"{name}_server")
        _set_environment(monkeypatch, found.env)
        return found

    return server, found


dynalite_server, dynalite = _server_of_aws("dynalite")
moto_server, moto = _server_of_aws("moto")
seaweedfs_server, seaweedfs = _server_of_aws("seaweedfs")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make boto3 in this process talk to a port of this machine."""
    from support.services import SECRET

    _set_environment(
        monkeypatch,
        {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET},
    )
    return lambda port: monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")


BACKENDS = (
    "memory",
    "sqlite",
    pytest.param("azure", marks=pytest.mark.azurite),
    pytest.param("dynamodb", marks=pytest.mark.dynalite),
    pytest.param("s3-seaweedfs", marks=pytest.mark.s3),
)

CONTRACT_ALONE = (
    "directory",
    pytest.param("azure-older", marks=pytest.mark.azurite),
    pytest.param("s3-moto", marks=[pytest.mark.s3, pytest.mark.long]),
)
"""For the contract of stores alone: no registry is a directory, and no code above a store sees its server's version."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the fixture `backend` over all backends, unless it names some itself."""
    named = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "backend" in metafunc.fixturenames and "backend" not in named:
        is_contract = metafunc.module.__name__.endswith("test_versioned_store")
        metafunc.parametrize("backend", [*BACKENDS, *CONTRACT_ALONE] if is_contract else BACKENDS, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Yield each backend in turn; CONTRIBUTING.md has the steps for a new one."""
    from support import servers

    if request.param == "memory":
        made = servers.memory_backend()
    elif request.param == "sqlite":
        made = servers.sqlite_backend(tmp_path / "registry.db")
    elif request.param == "directory":
        made = servers.directory_backend(tmp_path / "directory")
    elif request.param == "dynamodb":
        made = servers.dynamodb_backend(request.getfixturevalue("dynalite"))
    elif request.param.startswith("s3-"):
        made = servers.s3_backend(request.getfixturevalue(request.param.removeprefix("s3-")))
    else:
        made = servers.azure_backend(
            request.getfixturevalue("azurite" if request.param == "azure" else "older_azurite")
        )
    yield made
    made.close()


@pytest.fixture
def store(backend: Backend) -> VersionedStore:
    """Return an empty store of each backend in turn."""
    return backend.open()


# --- the command, run in this process: see support/cli.py -----------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands until it is moved."""
    from support.cli import Clock

    return Clock()


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock
) -> Iterator[Cli]:
    """Return the command, with an embedded registry and a cache of its own."""
    from support.cli import Cli

    home = tmp_path / "cli"
    home.mkdir()
    monkeypatch.chdir(home)
    made = Cli(home, clock, capsys)
    with made.at_end:
        yield made


@pytest.fixture
def jobs(cli: Cli) -> Iterator[JobRegistry]:
    """Return the embedded registry of `cli`, as another program on this machine uses it."""
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store import open_store

    with contextlib.closing(open_store(cli.env["MOPS_JOBS_REGISTRY"], {})) as store:
        yield JobRegistry(store, now=cli.clock.now, sleep=cli.clock.sleep)


@pytest.fixture
def remote(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """Give `cli` a registry across a network, which can be cut off."""
    from support.cli import REMOTE_URL, Remote

    made = Remote(cli.clock)
    cli.env["MOPS_JOBS_REGISTRY"] = REMOTE_URL
    monkeypatch.setattr("mopsjobs.store.open_store", lambda url, env, **_: made.store)
    return made


@pytest.fixture
def anywhere(cli: Cli, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> VersionedStore:
    """Give `cli` a registry on each backend in turn, and return its store."""
    from support.cli import REMOTE_URL, LineStore

    opened = backend.open()
    if backend.name == "memory":
        cli.env["MOPS_JOBS_REGISTRY"] = REMOTE_URL
        monkeypatch.setattr("mopsjobs.store.open_store", lambda url, env, **_: LineStore(opened))
    else:
        cli.env |= {"MOPS_JOBS_REGISTRY": backend.url, **backend.env}
    return opened


@pytest.fixture
def spawn(cli: Cli) -> Iterator[Spawn]:
    """Start the command as a process of its own, whose output is caught; it is gone when the test has ended."""
    import subprocess

    from support.cli import command, environment

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
def hook(cli: Cli) -> Iterator[Hook]:
    """Yield a server that all jobs are told to, by a rule of the user's configuration."""
    from support.notify import hook_rule, serving_hook

    with serving_hook() as hook:
        hook_rule(cli, hook)
        yield hook


@pytest.fixture
def quick_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write and read the record more often than a real runner, and look at an outage sooner."""
    monkeypatch.setattr("mopsjobs.runner.reporter.PROGRESS_SECONDS", 0.02)
    monkeypatch.setattr("mopsjobs.runner.reporter.READ_SECONDS", 0.05)
    monkeypatch.setattr("mopsjobs.runner.reporter.MAX_PAUSE", 0.1)
    monkeypatch.setattr("mopsjobs.runner.retry.MAX_PAUSE", 0.1)


@pytest.fixture
def hour_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each attempt at a task have used an hour of processor time."""
    from mopsjobs.runner.task_meter import TaskMeter

    add = TaskMeter.add

    def add_hour(meter: Any, result: Any) -> None:
        add(meter, result._replace(usage=result.usage._replace(user_seconds=3600.0, system_seconds=0.0)))

    monkeypatch.setattr(TaskMeter, "add", add_hour)


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a runner whose store stays away end at once: it waits for its events and its ledger in vain."""
    monkeypatch.setattr("mopsjobs.events.writer.CLOSE_SECONDS", 0.1)
    monkeypatch.setattr("mopsjobs.ledger.writer.CLOSE_SECONDS", 0.1)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts at a request to a store."""
    monkeypatch.setattr("mopsjobs.store.pacer.PAUSES", (0.001, 0.001))


@pytest.fixture
def line() -> LineStore:
    """Return a store across a line that can be cut."""
    from mopsjobs.store.memory import InMemoryVersionedStore
    from support.cli import LineStore

    return LineStore(InMemoryVersionedStore())


@pytest.fixture
def registry(line: LineStore) -> JobRegistry:
    """Return the registry in that store."""
    from mopsjobs.registry.job_registry import JobRegistry

    return JobRegistry(line, sleep=lambda _seconds: None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a directory with the model."""
    from support.runs import code

    return code(tmp_path / "code")


@pytest.fixture
def bench(line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path) -> Bench:
    """Return a bench for job `job`, with that store and model."""
    from support.runs import Bench

    return Bench(line, registry, model, tmp_path)


@pytest.fixture
def patient_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long for a cluster of a test: on a busy machine, it answers some requests after seconds."""
    from support.runs import PATIENCE

    for name in ("CONNECT_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(f"mopsjobs.engines.kubernetes.client.{name}", PATIENCE)


@pytest.fixture
def api(patient_clusters: None) -> Iterator[Api]:
    """Yield an API server with nothing in it."""
    from support.kubernetes import Api

    server = Api()
    yield server
    server.close()
