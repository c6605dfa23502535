"""`make_launch`: what it refuses, in terms of the fields of `LaunchOptions`."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.base import launch_fields, launch_notes, recorded_launch
from mopsjobs.errors import OptionError, UsageError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.submission import launching, shared_registry
from mopsjobs.submission.launch_options import LaunchOptions, cluster_options
from mopsjobs.submission.launching import make_launch
from mopsjobs.submission.session import Session

REGISTRY = JobRegistry(InMemoryVersionedStore())
SESSION = Session(registry_url="memory:", open_registry=lambda: REGISTRY, env={})


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("local", {"workers": 0}, "invalid workers '0': expected 1 or more."),
        ("kubernetes", {"shards": -1}, "invalid shards '-1': expected 1 or more."),
        ("local", {"task_timeout": 0.0}, "invalid task_timeout '0': expected more than zero."),
        ("local", {"task_memory": 1000}, "invalid task_memory '1000B': expected at least 16MiB."),
        ("local", {"retries": "x"}, "invalid retries 'x': expected a whole number from 0 to 100."),
        ("local", {"retries": -1}, "invalid retries '-1': expected a whole number from 0 to 100."),
        ("local", {"first": -1}, "invalid first '-1': expected a number of tasks, 0 for none."),
        (
            "local",
            {"max_failures": "many"},
            "invalid max_failures 'many': expected a number of tasks, or a share above 0% and below 100%.",
        ),
        ("local", {"shards": 2}, "shards has no effect with the local engine."),
        ("dask", {"cluster": {"service_account": "a"}}, "service_account has no effect with the dask engine."),
        ("kubernetes", {"scheduler": "tcp://h:1"}, "scheduler has no effect with the kubernetes engine."),
        ("slurm", {"cluster": {"image": "i"}}, "image has no effect with the slurm engine."),
        ("kubernetes", {"cluster": {"partition": "p"}}, "partition has no effect with the kubernetes engine."),
        (
            "slurm",
            {"cluster": {"time": "soon"}},
            "invalid time 'soon': expected a limit like 2h, 90 (minutes) or 1-12:00:00.",
        ),
        ("dask", {"workers": 2}, "workers has no effect with the dask engine: the cluster has its own."),
        ("local", {"python": "/no/python"}, "invalid python '/no/python': expected the path of a program."),
        ("local", {"python": "no-python"}, "invalid python 'no-python': expected a program on the PATH."),
    ],
)
def test_an_error_names_the_field(engine: str, options: dict[str, Any], message: str) -> None:
    """A Python program reads the name of the field that it has set, and no flag."""
    with pytest.raises(OptionError) as caught:
        make_launch("job", engine, LaunchOptions(**options), SESSION)
    assert str(caught.value) == message


def test_a_launch_on_slurm_names_the_registry_so_that_nodes_find_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or it is refused: nodes cannot share one on a network file system. With a drop of files they need none.

    But commands on several login nodes cannot share it either.
    """
    monkeypatch.chdir(tmp_path)
    warnings: list[str] = []
    session = dataclasses.replace(SESSION, registry_url="sqlite:registry.db", warn=warnings.append)
    assert make_launch("job", "slurm", LaunchOptions(), session).registry_url == f"sqlite://{tmp_path}/registry.db"
    monkeypatch.setattr(shared_registry, "network_file_system", lambda path: "beegfs")
    with pytest.raises(UsageError, match="beegfs"):
        make_launch("job", "slurm", LaunchOptions(), session)
    assert warnings == []
    drop = make_launch("job", "slurm", LaunchOptions(cluster={"file_drop": "yes"}), session)
    assert [warning.partition(",")[0] for warning in warnings] == [
        f"The registry {tmp_path}/registry.db is on a network file system (beegfs)"
    ]
    assert recorded_launch(launch_notes(drop, "slurm"), "slurm")["file_drop"] == "yes"  # so a resume repeats it


@pytest.mark.parametrize(
    ("options", "recorded", "expected"),
    [
        ({}, {}, (None, None)),
        ({"retries": 3}, {}, (3, "died")),
        ({"retry_on": "oom,died,oom"}, {}, (1, "died,oom")),
        ({}, {"retries": "3", "retry_on": "oom"}, (3, "oom")),
        ({"retries": 0}, {"retries": "3", "retry_on": "oom"}, (0, "oom")),
        ({"retry_on": "error:OSError"}, {"retries": "3"}, (3, "error:OSError")),
    ],
)
def test_retries_are_as_asked_for_else_as_recorded(
    options: dict[str, Any], recorded: dict[str, str], expected: tuple[int | None, str | None]
) -> None:
    launch = make_launch("job", "local", LaunchOptions(**options), SESSION, recorded=recorded)
    assert (launch.retries, launch.retry_on) == expected
    assert make_launch("job", "local", LaunchOptions(), SESSION, recorded={"task_memory": "1GiB"}).task_memory == 2**30


def test_a_limit_of_memory_is_refused_where_no_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "memory_size", lambda: None)
    with pytest.raises(OptionError, match=r"^task_memory has no effect on this system: only Linux tells"):
        make_launch("job", "local", LaunchOptions(task_memory=2**30), SESSION)


def test_a_program_that_is_not_python_is_refused() -> None:
    """The program is started once, with one line of Python."""
    with pytest.raises(OptionError, match=r"^invalid python '/bin/true': expected a program that runs Python\.$"):
        make_launch("job", "local", LaunchOptions(python="/bin/true"), SESSION)


def _environment(directory: Path, script: str | None) -> str:
    """Make an environment whose interpreter is this script; None: it has none. Return its path."""
    (directory / "bin").mkdir()
    if script is not None:
        python = directory / "bin" / "python"
        python.write_text(script)
        python.chmod(0o755)
    return str(directory)


@pytest.mark.parametrize(
    ("script", "problem"),
    [("#!/bin/sh\nexit 3\n", "does not run Python"), ("", "does not run Python"), (None, "does not exist")],
)
def test_the_interpreter_of_the_active_environment_is_checked(tmp_path: Path, script: str | None, problem: str) -> None:
    """Otherwise the runner would end before its first report, or run the model without its packages."""
    session = dataclasses.replace(SESSION, env={"VIRTUAL_ENV": _environment(tmp_path, script)})
    with pytest.raises(UsageError) as caught:
        make_launch("job", "local", LaunchOptions(), session)
    assert str(caught.value) == f"The interpreter of the active environment, {tmp_path}/bin/python, {problem}."
    assert str(caught.value.hint) == "Name the one that has the model's packages: --python PATH."
    assert make_launch("job", "local", LaunchOptions(python=sys.executable), session).python == sys.executable


def test_a_conda_environment_may_be_without_python(tmp_path: Path) -> None:
    """The tasks then run in the interpreter of mops-jobs."""
    session = dataclasses.replace(SESSION, env={"CONDA_PREFIX": _environment(tmp_path, None)})
    assert make_launch("job", "local", LaunchOptions(), session).python is None


@pytest.mark.parametrize(("script", "problem"), [("", "does not run Python"), (None, "does not exist")])
def test_the_interpreter_of_an_earlier_launch_is_checked(tmp_path: Path, script: str | None, problem: str) -> None:
    """It may have been removed or broken since."""
    path = f"{_environment(tmp_path, script)}/bin/python"
    with pytest.raises(UsageError) as caught:
        make_launch("job", "local", LaunchOptions(), SESSION, recorded={"python": path})
    assert str(caught.value) == f"The interpreter of an earlier launch, {path}, {problem}."


def test_an_earlier_launch_gives_what_the_options_leave_open() -> None:
    """Numbers of a record that no runner can work with count as not recorded."""
    recorded = {"workers": "3", "task_timeout": "90", "first": "0", "max_failures": "10%"}
    options = LaunchOptions(python=sys.executable)
    launch = make_launch("job", "local", options, SESSION, recorded=recorded)
    assert (launch.workers, launch.task_timeout, launch.first, launch.max_failures) == (3, 90.0, 0, "10%")
    assert recorded_launch(launch_notes(launch, "local"), "local").items() >= recorded.items()
    recorded = {"workers": "0", "task_timeout": "0", "first": "-1", "max_failures": "all"}
    launch = make_launch("job", "local", options, SESSION, recorded=recorded)
    assert (launch.workers, launch.task_timeout, launch.first, launch.max_failures) == (None, None, None, None)


def test_a_given_option_goes_before_an_earlier_launch() -> None:
    """Also a zero."""
    options = LaunchOptions(python=sys.executable, first=0, max_failures="5")
    launch = make_launch("job", "local", options, SESSION, recorded={"first": "3", "max_failures": "10%"})
    assert (launch.first, launch.max_failures) == (0, "5")


def test_a_launch_on_slurm_repeats_the_earlier_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without one, the setup is that of the environment, and the interpreter that of the active environment."""
    session = dataclasses.replace(SESSION, env={"MOPS_JOBS_SETUP": "module load a", "VIRTUAL_ENV": "/venv"})
    first = make_launch("job", "slurm", LaunchOptions(shards=4, cluster={"time": "2h"}), session)
    assert (first.shards, first.python) == (4, "/venv/bin/python")
    assert first.options == {"time": "2h", "setup": "module load a"}
    recorded = {"time": "2h", "setup": "module load b", "shards": "4", "python": "/p", "job_id": "12", "cluster": "lab"}
    again = make_launch("job", "slurm", LaunchOptions(cluster={"time": "3h"}), session, recorded=recorded)
    assert (again.shards, again.python) == (4, "/p")
    assert again.options == {"time": "3h", "setup": "module load b"}
    monkeypatch.chdir(tmp_path)
    relative = make_launch("job", "slurm", LaunchOptions(python="env/bin/python"), session)
    assert relative.python == f"{tmp_path}/env/bin/python"


def test_options_of_a_cluster_are_texts() -> None:
    """Labels and several values are joined, whether a flag was repeated or a program gave a mapping or a list."""
    options = {"node_selector": {"a": "b", "c": ""}, "toleration": ["x", "y=z"], "gpus": 2, "image": None, "workers": 3}
    assert cluster_options(options) == {"node_selector": "a=b,c=", "toleration": "x,y=z", "gpus": "2"}
    assert cluster_options({"node_selector": ["a=b", "c="]}) == {"node_selector": "a=b,c="}


def test_values_for_slurm_become_one_text() -> None:
    """Lines of the setup become one line, which stops where one fails. Flags of sbatch are words as in a shell."""
    options = {"cpu": 4, "requeue": False, "setup": ["module load gcc", ". env.sh"], "sbatch_arg": ["--comment=a b"]}
    expected = {"cpu": "4", "setup": "module load gcc && . env.sh", "requeue": "no", "sbatch_arg": "'--comment=a b'"}
    assert cluster_options({**options, "qos": None, "toleration": [], "other": "i"}) == expected
    assert cluster_options({"setup": "module load gcc"}) == {"setup": "module load gcc"}
    for line in ("", "a\nb"):
        with pytest.raises(OptionError, match="expected a line of the shell"):
            cluster_options({"setup": [line]})


def test_a_launch_on_a_cluster_has_all_that_its_record_keeps(tmp_path: Path) -> None:
    """What the environment chooses too, and of a patch the digest."""
    patch = tmp_path / "patch.yaml"
    patch.write_text("spec: {hostNetwork: true}")
    session = dataclasses.replace(SESSION, registry_url="azure://x", env={"MOPS_JOBS_IMAGE": "i:1"})
    options = LaunchOptions(shards=2, cluster={"pod_patch": str(patch), "namespace": "models"})
    launch = make_launch("job", "kubernetes", options, session)
    assert launch.options == {"pod_patch": '{"spec": {"hostNetwork": true}}', "namespace": "models", "image": "i:1"}
    fields = launch_fields(launch, "kubernetes")
    assert (fields["k8s_namespace"], fields["k8s_name"], fields["k8s_uid"]) == ("models", None, None)
    digest = hashlib.sha256(launch.options["pod_patch"].encode()).hexdigest()
    assert fields["metadata"] == {"k8s_image": "i:1", "k8s_shards": "2", "k8s_pod_patch": f"sha256:{digest}"}
