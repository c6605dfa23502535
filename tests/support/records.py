"""Records of jobs: the least that one may have, and one with every field."""

from __future__ import annotations

AT = "2026-11-24T09:00:00+00:00"
REQUIRED = {"job_id": "job-1", "status": "running", "created_at": AT, "updated_at": AT}

MODELOPS = {
    **REQUIRED,
    "k8s_name": "job-1-runner",
    "k8s_namespace": "modelops",
    "k8s_uid": None,
    "tasks_total": 10,
    "tasks_completed": 4,
    "error_message": None,
    "error_code": None,
    "results_path": None,
    "expected_outputs": [{"param_id": "p1", "seed": 1, "output_type": "simulation"}],
    "verified_outputs": ["sims/p1"],
    "missing_outputs": [],
    "tasks_verified": 0,
    "validation_started_at": None,
    "validation_completed_at": None,
    "validation_attempts": 0,
    "last_validation_error": None,
    "metadata": {"simulations": 10, "bundle": "sha256:ab", "nested": {"deep": [1, 2.5, None, True]}},
}
"""A record with every field of ModelOps' contract and none of mops-jobs."""

OURS = {
    "write_id": "w2",
    "revision": 2,
    "transitions": [
        {"status": "pending", "at": AT, "id": "w1"},
        {"status": "running", "at": AT, "id": "w2", "by": "x"},
    ],
    "tasks_failed": 1,
    "heartbeat_at": AT,
    "shards": {"0": [3, 1, 0]},
    "owner": "ada",
    "labels": {"exp": "7"},
    "engine": "local",
    "parent_job_id": "job-0",
    "usage": {"0": [812.5, 840.25, 960.0, 214958080]},
    "forecast": {"0": [1780000000.5, 1780000600.0, 8, 1, 17, 1779999000.0, 120.5]},
}
