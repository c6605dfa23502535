"""`metrics` before Prometheus itself: its linter, a scrape, the alerts and the dashboard."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from bench.servers import free_port
from mopsjobs.app.care import metrics
from mopsjobs.cache import database as cache_database
from support.cli import REMOTE_URL, Cli, Remote
from support.runs import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
CONTRIB = ROOT / "contrib"
Programs = Callable[[str], str]
NAME = re.compile(r"\bmops_\w+")


@pytest.mark.usefixtures("full")
def test_promtool_finds_nothing(cli: Cli, prometheus_program: Programs) -> None:
    """`promtool check metrics`, the linter of Prometheus itself, has nothing to say against the output."""
    text = cli.ok("metrics").out
    ran = subprocess.run(
        [prometheus_program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def _names(cli: Cli) -> set[str]:
    """Return the names of all metrics, as queries have them, histograms without their endings."""
    text = cli.ok("metrics").out
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}


class _Prometheus:
    """A real Prometheus, which scrapes one target and has the alert rules loaded."""

    def __init__(self, program: str, directory: Path, target: str) -> None:
        self._port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "200ms"},
            "rule_files": [str(CONTRIB / "alerts.yml")],
            "scrape_configs": [{"job_name": "mops-jobs", "static_configs": [{"targets": [target]}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        words = [f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
        words += [f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn"]
        with (directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen([program, *words], stdout=log, stderr=log, cwd=directory)

    def get(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as reply:
            document = json.load(reply)
        assert document["status"] == "success", document
        return document["data"]

    def scraped(self) -> Any:
        """Return the first answer to a query for any of our metrics, once there is one; None before."""
        assert self._process.poll() is None, "Prometheus has ended"
        with suppress(OSError):
            return next(iter(self.get("query", query="mops_jobs")["result"]), None)
        return None

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)


@pytest.fixture
def scraped(cli: Cli, full: Remote, tmp_path: Path, prometheus_program: Programs) -> Iterator[_Prometheus]:
    """Yield Prometheus, at the metrics of that cache by HTTP."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            connection = cache_database.open_to_read(str(cli.cache), REMOTE_URL)
            assert connection is not None
            with closing(connection):
                body = metrics.render(connection, now=cli.clock.now().timestamp())
            self.send_response(200)
            self.send_header("Content-Type", metrics.CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        prometheus = _Prometheus(prometheus_program("prometheus"), tmp_path, f"127.0.0.1:{server.server_address[1]}")
        try:
            yield prometheus
        finally:
            prometheus.stop()
            server.shutdown()
            thread.join()


def _expressions() -> list[str]:
    """Return every query of the dashboard and of the alert rules."""
    dashboard = json.loads((CONTRIB / "grafana-dashboard.json").read_text())
    rules = yaml.safe_load((CONTRIB / "alerts.yml").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_prometheus_scrapes_it(scraped: _Prometheus) -> None:
    """A real Prometheus takes the page, has the values, loads the rules, and can answer every query that ships."""
    until(scraped.scraped, "a scrape whose samples are there")
    (sample,) = scraped.get("query", query='mops_jobs{status="failed",namespace="n1"}')["result"]
    assert sample["value"][1] == "1"
    (sample,) = scraped.get("query", query="sum(mops_jobs_suspect)")["result"]
    assert sample["value"][1] == "2"
    assert {one["type"] for ones in scraped.get("metadata").values() for one in ones} >= {
        "gauge",
        "counter",
        "histogram",
    }
    for expression in _expressions():
        scraped.get("query", query=expression)  # fails if it is not a query
    health = {rule["name"]: rule["health"] for group in scraped.get("rules")["groups"] for rule in group["rules"]}
    assert len(health) == 8
    assert "err" not in health.values()


@pytest.mark.usefixtures("full")
def test_what_ships_asks_for_metrics_that_exist(cli: Cli) -> None:
    """The dashboard and the alert rules name no metric that `metrics` does not give."""
    endings = ("_bucket", "_count", "_sum")
    names = _names(cli) | {f"{name}{ending}" for name in _names(cli) if name.endswith("seconds") for ending in endings}
    asked = {name for expression in _expressions() for name in NAME.findall(expression)}
    assert asked <= names
    assert len(asked) > 8


def test_alert_rules_are_sound(prometheus_program: Programs) -> None:
    """`promtool check rules` passes on contrib/alerts.yml."""
    ran = subprocess.run(
        [prometheus_program("promtool"), "check", "rules", str(CONTRIB / "alerts.yml")], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
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
