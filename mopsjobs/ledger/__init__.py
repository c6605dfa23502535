"""The ledger of a job: every attempt at its tasks, in immutable chunks beside the events."""
