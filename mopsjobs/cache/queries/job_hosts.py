"""The machines that ran the attempts at the tasks of a job."""

from __future__ import annotations

import sqlite3

MAX_HOSTS = 10_000
"""A large job on a cluster has some hundred. Every writer of the registry can name more."""


def hosts_of(connection: sqlite3.Connection, job_id: str) -> list[str]:
    """Return the names of the machines in their order; none without a ledger."""
    sql = "SELECT DISTINCT host FROM attempt WHERE job_id = ? AND host IS NOT NULL ORDER BY host LIMIT ?"
    return [host for (host,) in connection.execute(sql, (job_id, MAX_HOSTS))]
