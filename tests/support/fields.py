"""The fields of a job in JSON, as the schema has them."""

from __future__ import annotations

from mopsjobs.cache.job_json import job_fields

JOB_FIELDS = [*job_fields()]
