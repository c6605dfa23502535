"""Tasks that are killed, preempted or late go on from their last checkpoint, with real processes of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.events.format import parse_chunk
from mopsjobs.ledger.attempt import Attempt, Outcome, Resumed
from mopsjobs.runner.checkpoints import Checkpoints
from mopsjobs.runner.pools.base import TaskLimits
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.runner.shard import TaskProgress
from mopsjobs.store.base import Versioned, VersionToken
from mopsjobs.studies.manifest import manifest_key
from mopsjobs.studies.packed_store import PackedStore
from support.checkpoints import IN_VAIN, STEPS, steps_of, undisturbed
from support.cli import LineStore
from support.docs import ROOT
from support.ledgers import attempts_in
from support.runs import PATIENCE, Bench, code, place, results, sets_of, study, until

pytestmark = pytest.mark.usefixtures("quick_runner")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model of steps."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return code(tmp_path / "code", STEPS)


def _attempts(bench: Bench, task: int = 0) -> list[Attempt]:
    return [one for one in attempts_in(bench.line) if one.task == task]


def _keys(bench: Bench) -> list[str]:
    return list(bench.line.list_keys("checkpoints/"))


def _told(bench: Bench) -> list[str]:
    """Return the texts of the events of the runner."""
    events = [event for entry in bench.line.scan("events/") for event in parse_chunk(entry.value or b"")]
    return [event["text"] for event in events if event["kind"] == "runner"]


def _stop_after(gate: Path) -> Callable[[TaskProgress], None]:
    """Return a look that tells the run to stop once a task has come to its gate."""

    def stop(_progress: TaskProgress) -> None:
        if gate.with_name(f"{gate.name}-reached").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def test_a_task_whose_worker_dies_goes_on_from_its_last_checkpoint(bench: Bench, tmp_path: Path) -> None:
    """It loses the steps since then, its result is the same, and nothing of its checkpoints stays."""
    sets = bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=50, die=[34]))
    ran, said = bench.work()
    assert (ran.status, said) == ("succeeded", [])
    assert steps_of(tmp_path / "steps") == {0: [*range(35), *range(30, 50)]}
    assert results(bench.line) == undisturbed(sets)
    first, second = _attempts(bench)
    assert (first.outcome, first.resumed) == (Outcome.DIED, None)
    assert second.outcome == Outcome.SUCCEEDED
    assert second.resumed is not None
    assert second.resumed.at == "30"
    assert second.resumed.seconds <= (first.seconds or 0)
    assert _keys(bench) == []
    assert not JobDir(tmp_path / "job").checkpoints.exists()


def test_outputs_of_tasks_that_went_on_go_into_packs(bench: Bench, tmp_path: Path) -> None:
    sets = bench.given(sets_of(10, steps=str(tmp_path / "steps"), steps_total=50, die=[34]))
    ran, said = bench.work(store=PackedStore(bench.line))
    assert (ran.status, said) == ("succeeded", [])
    assert [key for key in bench.line.list_keys("results/") if ".packs/" in key]
    assert results(bench.line) == undisturbed(sets)
    assert _keys(bench) == []


def test_a_run_on_another_machine_goes_on_from_the_store(bench: Bench, tmp_path: Path) -> None:
    """The first one's worker died, and the job was resumed elsewhere."""
    sets = bench.given(sets_of(2, steps=str(tmp_path / "steps"), steps_total=50, die=[34]))
    ran, _ = bench.work("here", retries=0, number=0, shards=2)
    assert ran[1:3] == (0, 1)
    assert {key.rpartition("/")[2].partition(".")[0] for key in _keys(bench)} <= {"000001", "000002", "000003"}
    ran, said = bench.work("there", retries=0, number=0, shards=2)
    assert (ran.completed, said) == (1, [])
    assert steps_of(tmp_path / "steps") == {0: [*range(35), *range(30, 50)]}
    assert results(bench.line).items() <= undisturbed(sets).items()
    assert _keys(bench) == []


def test_a_run_that_is_told_to_stop_lets_its_tasks_save(bench: Bench, tmp_path: Path) -> None:
    """They end as preempted, which counts as no retry, and the next run goes on from there."""
    gate = tmp_path / "gate"
    sets = bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=20, every=1000, gates={"5": str(gate)}))

    ran, said = bench.work("here", on_progress=_stop_after(gate), grace=PATIENCE)
    assert (ran.is_done, ran.signal, ran.failed) == (False, signal.SIGTERM, 0)
    assert "1 task may save, up to 5m." in said
    gate.touch()
    ran, said = bench.work("there", retries=0)
    assert (ran.status, said) == ("succeeded", [])
    assert steps_of(tmp_path / "steps") == {0: [*range(20)]}
    assert results(bench.line) == undisturbed(sets)
    first, second = sorted(_attempts(bench), key=lambda one: one.started_at or 0)
    assert (first.outcome, second.outcome) == (Outcome.PREEMPTED, Outcome.SUCCEEDED)
    assert second.resumed is not None
    assert (second.resumed.number, second.resumed.at) == (1, "6")


def test_a_task_that_a_worker_has_next_has_no_attempt_after_a_stop(bench: Bench, tmp_path: Path) -> None:
    """As Slurm stops all processes of a job, the first one has saved when the runner acts. Its worker goes on."""
    gate, following = tmp_path / "gate", tmp_path / "next"
    begins = f"def simulate(params, seed):\n    if params['x']:\n        open({str(following)!r}, 'x').close()\n"
    code(tmp_path / "code", STEPS.replace("def simulate(params, seed):\n", f"{begins}        time.sleep(600)\n"))
    bench.given(sets_of(2, steps=str(tmp_path / "steps"), steps_total=20, every=1000, gates={"5": str(gate)}))

    def stop(_progress: TaskProgress) -> None:
        if gate.with_name("gate-reached").exists() and not following.exists():
            os.kill(os.getpid(), signal.SIGTERM)
            (new,) = JobDir(tmp_path / "here").checkpoints.glob("*/new")
            new.with_name("stop").touch()
            until(following.exists)

    bench.work("here", on_progress=stop, workers=1)
    assert [(one.task, one.outcome) for one in attempts_in(bench.line)] == [(0, Outcome.PREEMPTED)]


SHELL = """
import os, subprocess

SCRIPT = '''
set -e
step=0
for state in "$MOPS_JOBS_CHECKPOINT_DIR"/last/*; do
    if [ -e "$state" ]; then step=$(cat "$state"); fi
done
mkdir -p "$MOPS_JOBS_CHECKPOINT_DIR/new"
echo "$step" >> "$STEPS"
if [ "$step" = 3 ]; then exit 0; fi
if [ "$step" != "$STUCK" ]; then
    echo $((step + 1)) > "$MOPS_JOBS_CHECKPOINT_DIR/part"
    mv "$MOPS_JOBS_CHECKPOINT_DIR/part" "$MOPS_JOBS_CHECKPOINT_DIR/new/$((step + 1))"
fi
exit "$MOPS_JOBS_CHECKPOINT_EXIT"
'''

def simulate(params, seed):
    env = {**os.environ, "STEPS": params["steps"], "STUCK": params["stuck"]}
    subprocess.run(["sh", "-c", SCRIPT], check=True, env=env)
    return {"steps": open(params["steps"]).read().split()}
"""


def test_a_program_of_another_language_asks_to_be_started_again(bench: Bench, tmp_path: Path) -> None:
    """By its exit code, as often as it has saved; no retry is needed."""
    code(tmp_path / "code", SHELL)
    bench.given([{"steps": str(tmp_path / "steps"), "stuck": ""}])
    ran, said = bench.work(retries=0)
    assert (ran.status, said) == ("succeeded", [])
    assert json.loads(*results(bench.line).values()) == {"steps": ["0", "1", "2", "3"]}
    attempts = _attempts(bench)
    assert [one.outcome for one in attempts] == [*[Outcome.PREEMPTED] * 3, Outcome.SUCCEEDED]
    assert [one.resumed and one.resumed.at for one in attempts] == [None, "1", "2", "3"]


PERL = """
import os, subprocess, sys

SCRIPT = r'''
use strict; use warnings; use File::Path 'make_path';
my $dir = $ENV{MOPS_JOBS_CHECKPOINT_DIR};
my ($last) = glob("$dir/last/*");
my ($step, $x) = (0, $ENV{MOPS_JOBS_SEED} % 997);
if (defined $last) { open(my $in, '<', $last) or die; ($step, $x) = split ' ', <$in>; }
make_path("$dir/new");
while ($step < 30) {
    open(my $note, '>>', $ENV{STEPS}) or die; print $note "$step\n"; close $note;
    $x = ($x * 31 + 7) % 997; $step += 1;
    if ($step % 10 == 0 or -e "$dir/stop") {
        open(my $out, '>', "$dir/part") or die; print $out "$step $x"; close $out;
        rename "$dir/part", "$dir/new/$step";
    }
    exit $ENV{MOPS_JOBS_CHECKPOINT_EXIT} if -e "$dir/stop";
    if ($step == 14 and not defined $last) { kill 'KILL', getppid(); sleep 600; }
}
print $x;
'''

def simulate(params, seed):
    env = {**os.environ, "STEPS": params["steps"]}
    done = subprocess.run(["perl", "-e", SCRIPT], check=True, env=env, stdout=subprocess.PIPE)
    return {"x": int(done.stdout)}
"""


def test_a_perl_script_goes_on_from_a_file_of_its_own(bench: Bench, tmp_path: Path) -> None:
    """Its worker is killed in step 14. Its last checkpoint is of step 10, and its result is that of 30 steps."""
    code(tmp_path / "code", PERL)
    bench.given([{"steps": str(tmp_path / "steps")}])
    ran, said = bench.work()
    assert (ran.status, said) == ("succeeded", [])
    assert [*map(int, (tmp_path / "steps").read_text().split())] == [*range(14), *range(10, 30)]
    ((name, output),) = results(bench.line).items()
    expected = int(name.split("/")[1]) % 997
    for _ in range(30):
        expected = (expected * 31 + 7) % 997
    assert json.loads(output) == {"x": expected}


def test_a_program_that_asks_again_without_saving_has_failed(bench: Bench, tmp_path: Path) -> None:
    """It would go on for ever."""
    code(tmp_path / "code", SHELL)
    bench.given([{"steps": str(tmp_path / "steps"), "stuck": "1"}])
    ran, said = bench.work(retries=0)
    assert ran.status == "failed"
    assert "NoCheckpoint: it ended with code 85, but has left no new checkpoint" in said[0]
    assert [one.outcome for one in _attempts(bench)] == [Outcome.PREEMPTED, Outcome.FAILED]


@pytest.mark.parametrize("saves", [1, 4])
def test_a_program_that_saves_what_it_began_from_has_failed(bench: Bench, tmp_path: Path, saves: int) -> None:
    """It does not read its checkpoint, for example, and would do the same steps for ever."""
    code(tmp_path / "code", IN_VAIN)
    bench.given([{"saves": saves}])
    ran, said = bench.work(retries=0)
    assert ran.status == "failed"
    assert "NoCheckpoint" in said[0]
    assert [one.outcome for one in _attempts(bench)] == [Outcome.PREEMPTED, Outcome.FAILED]


@pytest.mark.parametrize(
    ("allowed", "told", "again"),
    [(False, "is of other code or packages. --allow-old-checkpoints uses it.", 0), (True, "Used: checkpoint ", 30)],
)
def test_a_checkpoint_of_other_code_is_used_if_asked_for(
    bench: Bench, tmp_path: Path, allowed: bool, told: str, again: int
) -> None:
    """Log and events say so in both cases. The parent of the job had another bundle."""
    sets = bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=50, die=[34]))
    bench.work("here", retries=0)
    manifest = place(bench.line, "draft", study(sets), code(tmp_path / "changed", STEPS + "# changed\n"))
    manifest = dataclasses.replace(manifest, job_id="child", parent_job_id="job")
    bench.line.create_if_absent(manifest_key("child"), manifest.to_json())
    bench.registry.register_job("child", tasks_total=1)
    ran, said = bench.work("there", job_id="child", allow_old_checkpoints=allowed)
    assert ran.status == "succeeded"
    assert told in said[0]
    assert steps_of(tmp_path / "steps") == {0: [*range(35), *range(again, 50)]}
    texts = [event.get("text") for entry in bench.line.scan("events/") for event in parse_chunk(entry.value or b"")]
    assert said[0] in texts


def test_the_limit_of_a_task_counts_what_it_had_worked_before() -> None:
    """And that of an attempt does not."""
    resumed = Resumed(3, "x", 50.0)
    limits = TaskLimits(timeout=60.0, attempt_timeout=20.0)
    assert (limits.seconds_of(None), limits.seconds_of(resumed)) == (20.0, 10.0)
    assert limits.lateness(None)[1] == {"type": "Timeout", "message": "it took longer than 20 s"}
    assert limits.lateness(resumed)[1] == {"type": "Timeout", "message": "it took longer than 60 s"}


class _Away(LineStore):
    """A store that takes no checkpoints while it is `away`."""

    away = True

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        if self.away and key.startswith("checkpoints/"):
            raise StoreUnavailableError("The store does not answer.")
        return super().create_if_absent(key, value)


def test_an_outage_keeps_the_last_checkpoint_on_the_disk(bench: Bench, tmp_path: Path) -> None:
    """The next run on this machine finds it, sends nothing twice, and tasks never wait for the store."""
    bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=50, die=[34]))
    away = _Away(bench.line.inner)
    bench.work("here", store=away, retries=0, grace=0.1, shards=2)
    assert _keys(bench) == []
    away.away = False
    ran, _ = bench.work("here", store=away, retries=0, shards=2)
    assert ran.completed == 1
    assert steps_of(tmp_path / "steps") == {0: [*range(35), *range(30, 50)]}


class _Unlisted(LineStore):
    """A store that does not answer when its checkpoints are listed, a few times."""

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        if prefix.startswith("checkpoints/") and self.calls["unlisted"] < 3:
            self.calls["unlisted"] += 1
            raise StoreUnavailableError("The store does not answer.")
        return super().list_keys(prefix)


def test_an_outage_while_checkpoints_are_listed_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    """It is shorter than what the tasks have done. Only if nothing of the store is known, tasks begin without."""
    bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=50, die=[34]))
    bench.work("here", retries=0, shards=2)
    ran, said = bench.work("there", store=_Unlisted(bench.line.inner), retries=0, shards=2)
    assert (ran.completed, [line[:34] for line in said]) == (1, ["The registry does not answer; wait"])
    assert steps_of(tmp_path / "steps") == {0: [*range(35), *range(30, 50)]}


class _Slow(LineStore):
    """A store that sends no checkpoint until `gate` is set."""

    gate = threading.Event()

    def get(self, key: str) -> Versioned | None:
        if key.startswith("checkpoints/"):
            self.gate.wait()
        return super().get(key)


class _Stopped(LineStore):
    """A store that takes a checkpoint after `gate`, and whose runner is told to stop when it has begun to close."""

    closes, gate = threading.Event(), threading.Event()

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        if key.startswith("checkpoints/") and not self.gate.is_set():
            self.closes.wait(PATIENCE)
            os.kill(os.getpid(), signal.SIGTERM)
            self.gate.wait(PATIENCE)
        return super().create_if_absent(key, value)


def test_a_stop_shortens_the_wait_of_a_run_that_closes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tasks have ended, and a slow store would have minutes for the last checkpoints of those that failed."""
    close = Checkpoints.close
    monkeypatch.setattr(Checkpoints, "close", lambda *how: _Stopped.closes.set() or close(*how))
    bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=50, die=[34]))
    ran, _ = bench.work("here", store=_Stopped(bench.line.inner), retries=0, shards=2, grace=0.1)
    assert (ran.signal, _keys(bench)) == (signal.SIGTERM, [])
    assert "The store has not taken the checkpoints of 1 task; they are here alone." in _told(bench)
    _Stopped.gate.set()


def test_what_saving_took_of_the_grace_is_not_there_again_to_send(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster kills the runner at the end of its grace period, before the others of its last words are written."""
    gate, given = tmp_path / "gate", list[float]()
    stop, close = OutageRetry.stop, Checkpoints.close

    def stop_before(retry: OutageRetry, number: int | None = None) -> None:
        stop(retry, number)
        retry.stopped_ts -= 0.75 * PATIENCE

    def note_seconds(checkpoints: Checkpoints, seconds: float, *more: Any) -> None:
        given.append(seconds)
        close(checkpoints, seconds, *more)

    monkeypatch.setattr(OutageRetry, "stop", stop_before)
    monkeypatch.setattr(Checkpoints, "close", note_seconds)
    bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=20, every=1000, gates={"5": str(gate)}))
    ran, _ = bench.work("here", on_progress=_stop_after(gate), grace=PATIENCE)
    assert (ran.saved, given[0] <= 0.25 * PATIENCE) == (1, True)


def test_a_run_tells_how_many_tasks_did_not_save_in_time(bench: Bench, tmp_path: Path) -> None:
    """The task does not look whether it is to stop. Its next attempt lacks what it did since its last checkpoint."""
    gate = tmp_path / "gate"
    gates = {"5": str(gate)}
    bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=20, every=3, gates=gates, is_deaf=True))
    ran, said = bench.work("here", on_progress=_stop_after(gate), grace=1.0)
    text = "1 task did not save within 1s; 0 did."
    assert (ran.saved, text in said, text in _told(bench)) == (0, True, True)


def test_other_tasks_go_on_while_a_checkpoint_is_fetched(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their results are taken, and no further worker is started meanwhile."""
    monkeypatch.setattr("mopsjobs.runner.checkpoints.BEGIN_SECONDS", 0.0)
    monkeypatch.setattr(_Slow, "gate", threading.Event())
    sets = sets_of(2, steps=str(tmp_path / "steps"), steps_total=50, die=[34])
    sets[0]["die"] = []
    bench.given(sets)
    bench.work("here", retries=0, shards=2, number=1, grace=60.0)
    assert _keys(bench) != []

    def open_gate(progress: TaskProgress) -> None:
        if progress.done > 0:
            _Slow.gate.set()

    ran, said = bench.work("there", store=_Slow(bench.line.inner), on_progress=open_gate)
    assert (ran.status, said) == ("succeeded", [])
    assert steps_of(tmp_path / "steps")[1] == [*range(35), *range(30, 50)]
    assert results(bench.line) == undisturbed(sets)
