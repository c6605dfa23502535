"""Inside a job: its tasks, failures and results."""
