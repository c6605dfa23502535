"""The runner: works through a job's tasks and reports.

worker: runs in the model's own interpreter, imports nothing of ours, speaks JSON lines. pool: warm workers; hands out
tasks, takes results, retries a task whose worker died, stops one that takes too long. reporter: progress, heartbeat and
end of a job, told to the registry without the work waiting for it. spool: outputs on their way to the store, on disk
while it cannot be reached. patience: how long a registry that does not answer is waited for. run: the whole, one shard
of one job from its manifest to its end.
"""
