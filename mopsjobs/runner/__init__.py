"""Work through a shard of a job: run its tasks in a pool of workers, store outputs, report progress and the end."""
