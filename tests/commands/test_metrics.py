"""`metrics`: sound, complete, no request to the registry; and what Prometheus itself makes of it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from support.cli import Cli, Remote, sentences

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")

NAME = re.compile(r"\bmops_\w+")


def _samples(text: str) -> dict[str, float]:
    """Return the samples of an exposition, by name and labels as they stand there."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            found[f"{match[1]}{{{match[2]}}}" if match[2] else match[1]] = float(match[3])
    return found


@pytest.mark.usefixtures("full")
def test_metrics_tell_what_is_so(cli: Cli) -> None:
    """Counts by status with their zeros, tasks, outputs, what may be stuck, and what the syncs came to."""
    found = _samples(cli.ok("metrics").out)
    expected = {
        'mops_jobs{namespace="n1",status="running"}': 1,
        'mops_jobs{namespace="n1",status="other"}': 0,
        'mops_jobs{namespace="x\\" ",status="other"}': 1,
        'mops_jobs{namespace="modelops",status="running"}': 2,
        'mops_jobs{namespace="modelops",status="failed"}': 0,
        'mops_jobs_finished_total{namespace="n1",status="failed"}': 1,
        'mops_jobs_finished_total{namespace="modelops",status="partial"}': 1,
        'mops_job_run_duration_seconds_count{status="succeeded"}': 1,
        'mops_jobs_suspect{reason="no_update"}': 1,
        'mops_jobs_suspect{reason="pod_gone"}': 1,
        'mops_jobs_suspect{reason="k8s_job_missing"}': 0,
        'mops_jobs_suspect{reason="job_missing"}': 0,
        'mops_job_tasks{state="completed"}': 1,
        'mops_job_tasks{state="remaining"}': 19,
        'mops_job_outputs{state="verified"}': 2,
        'mops_job_outputs{state="missing"}': 1,
        'mops_sync_blobs{outcome="changed"}': 13,
        'mops_sync_blobs{outcome="invalid"}': 1,
        'mops_sync_errors_total{kind="parse"}': 1,
        'mops_sync_errors_total{kind="network"}': 0,
        "mops_sync_last_success_timestamp_seconds": cli.clock.now().timestamp(),
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["mops_cache_size_bytes"] > 0
    assert not any("job_id" in name or "ada" in name for name in found), "persons and jobs only when asked for"


@pytest.mark.usefixtures("full")
def test_every_metric_of_the_table_is_there(cli: Cli) -> None:
    """docs/reference/metrics.md names exactly the metrics that there are."""
    told = set(
        re.findall(
            r"^\| `(mops_\w+)", (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    assert told == _names(cli)


def _names(cli: Cli) -> set[str]:
    """Return the names of all metrics, as queries have them, histograms without their endings."""
    text = cli.ok("metrics").out
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}


def test_a_scrape_is_no_request(cli: Cli, full: Remote) -> None:
    """Metrics come from the cache, however old; without one they are refused, and the network is left alone."""
    full.store.down = True
    full.store.calls.clear()
    cli.clock.advance(days=3)
    synced = _samples(cli.ok("metrics").out)["mops_sync_last_success_timestamp_seconds"]
    assert cli.clock.now().timestamp() - synced == 3 * 86400
    cli.fails(5, "metrics", "--cache", str(cli.cache.parent / "none.db"))
    assert not full.store.calls


# --- the textfile ----------------------------------------------------------------------------------------------------


@pytest.mark.claim("`results --download` and `metrics --textfile` follow your umask")
@pytest.mark.usefixtures("full")
def test_a_textfile_is_replaced_as_a_whole(cli: Cli, tmp_path: Path) -> None:
    """`--textfile` says nothing, leaves no other file behind, and gives the file the mode that the umask says."""
    path = tmp_path / "mops-jobs.prom"
    path.write_text("old")
    before = path.stat().st_ino
    old = os.umask(0o027)
    try:
        ran = cli.ok("metrics", "--textfile", str(path))
    finally:
        os.umask(old)
    assert (ran.out, ran.err) == ("", "")
    assert path.read_text() == cli.ok("metrics").out
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_ino != before, "written in place: a reader may have seen half of it"
    assert [one.name for one in tmp_path.glob("*.prom*")] == [path.name]


@pytest.mark.usefixtures("full")
def test_a_textfile_that_node_exporter_would_skip_is_warned_of(cli: Cli, tmp_path: Path) -> None:
    """The file is written all the same.

    It is read by its name, and metrics that Prometheus does not collect are missed too late.
    """
    ran = cli.ok("metrics", "--textfile", str(tmp_path / "mops-jobs.txt"))
    ignored = f"warning: node_exporter ignores {tmp_path}/mops-jobs.txt"
    assert ran.err == f"{ignored}: it reads only files whose names end in .prom.\n"
    assert (tmp_path / "mops-jobs.txt").read_text().startswith("# HELP")


def test_a_textfile_that_cannot_be_written_keeps_the_old_one(cli: Cli, tmp_path: Path) -> None:
    """A path that is none, or a disk that is full, ends in one sentence, and nothing is left behind."""
    ran = cli("metrics", "--textfile", str(tmp_path / "none" / "x.prom"))
    assert (ran.code, sentences(ran.err)) == (
        1,
        [f"error: Cannot write {tmp_path}/none/x.prom: No such file or directory."],
    )
    (tmp_path / "a.prom").mkdir()
    ran = cli("metrics", "--textfile", str(tmp_path / "a.prom"))
    assert (ran.code, len(sentences(ran.err))) == (1, 1)
    assert not [one for one in tmp_path.iterdir() if one.name.startswith("a.prom.")]


CONTRIB = ROOT / "contrib"
Programs = Callable[[str], str]


@pytest.mark.usefixtures("full")
def test_promtool_finds_nothing(cli: Cli, prometheus_program: Programs) -> None:
    """`promtool check metrics`, the linter of Prometheus itself, has nothing to say against the output."""
    text = cli.ok("metrics").out
    ran = subprocess.run(
        [prometheus_program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def _expressions() -> list[str]:
    """Return every query of the dashboard and of the alert rules."""
    dashboard = json.loads((CONTRIB / "grafana-dashboard.json").read_text())
    rules = yaml.safe_load((CONTRIB / "alerts.yml").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.usefixtures("full")
def test_what_ships_asks_for_metrics_that_exist(cli: Cli) -> None:
    """The dashboard and the alert rules name no metric that `metrics` does not give."""
    endings = ("_bucket", "_count", "_sum")
    names = _names(cli) | {f"{name}{ending}" for name in _names(cli) if name.endswith("seconds") for ending in endings}
    asked = {name for expression in _expressions() for name in NAME.findall(expression)}
    assert asked <= names
    assert len(asked) > 8


def test_prometheus_takes_each_query_that_ships(prometheus_program: Programs, tmp_path: Path) -> None:
    """Those of the dashboard as rules of their own, with the alerts."""
    rules = [{"record": f"mops:{number}", "expr": text} for number, text in enumerate(_expressions())]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    words = [prometheus_program("promtool"), "check", "rules", str(path), str(CONTRIB / "alerts.yml")]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "8 rules found" in ran.stdout


def test_alerts_fire_when_they_should(prometheus_program: Programs, tmp_path: Path) -> None:
    """With `promtool test rules`: an old cache, many failures, a silent job raise their alerts; a healthy one none."""
    up = [{"series": "mops_build_info", "values": "1x80"}]
    well = [
        {"series": "mops_sync_last_success_timestamp_seconds", "values": "0+60x80"},
        {"series": 'mops_jobs_finished_total{status="failed"}', "values": "0x80"},
        {"series": 'mops_jobs_finished_total{status="succeeded"}', "values": "0+1x80"},
        {"series": 'mops_jobs_oldest_update_timestamp_seconds{status="running"}', "values": "0+60x80"},
        {"series": 'mops_jobs_suspect{reason="pod_gone"}', "values": "0x80"},
    ]
    ill = [
        {"series": "mops_sync_last_success_timestamp_seconds", "values": "0x80"},
        {"series": 'mops_jobs_finished_total{status="failed"}', "values": "0+1x80"},
        {"series": 'mops_jobs_finished_total{status="succeeded"}', "values": "0x80"},
        {"series": 'mops_jobs_oldest_update_timestamp_seconds{status="running"}', "values": "0x80"},
        {"series": 'mops_jobs_suspect{reason="pod_gone"}', "values": "2x80"},
    ]
    names = ("MopsSyncStale", "MopsJobsFail", "MopsJobSilent", "MopsJobsSuspect", "MopsMetricsMissing")

    def case(series: list[dict[str, str]], firing: tuple[str, ...]) -> dict[str, object]:
        count = f"count by (alertname) (ALERTS{{alertstate='firing',alertname=~'{'|'.join(names)}'}})"
        samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing]
        test = {"expr": count, "eval_time": "78m", "exp_samples": samples}
        return {"interval": "1m", "input_series": series, "promql_expr_test": [test]}

    cases = [case(up + well, ()), case(up + ill, names[:4]), case(well, names[4:])]
    tests = tmp_path / "tests.yml"
    tests.write_text(json.dumps({"rule_files": [str(CONTRIB / "alerts.yml")], "tests": cases}))
    ran = subprocess.run([prometheus_program("promtool"), "test", "rules", str(tests)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
