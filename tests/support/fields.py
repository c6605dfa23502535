"""The fields of a job in JSON, in their order, written out by hand: a promise to scripts."""

JOB_FIELDS = [
    "job_id", "status", "created_at", "updated_at", "k8s_name", "k8s_namespace", "k8s_uid", "tasks_total",
    "tasks_completed", "error_message", "error_code", "results_path", "expected_outputs", "verified_outputs",
    "missing_outputs", "tasks_verified", "validation_started_at", "validation_completed_at", "validation_attempts",
    "last_validation_error", "metadata", "write_id", "revision", "transitions", "tasks_failed", "heartbeat_at",
    "shards", "owner", "labels", "engine", "parent_job_id", "usage", "forecast", "progress", "is_active",
    "status_since", "started_at", "ended_at",
    "duration_seconds", "queued_seconds", "run_seconds", "suspect",
    "cpu_seconds", "task_seconds", "held_core_seconds", "cpu_efficiency", "max_rss_bytes", "eta_earliest", "eta_latest",
    "eta_basis", "stragglers", "time_limit_at",
]  # fmt: skip
