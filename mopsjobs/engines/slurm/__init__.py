"""The slurm engine: its options, the batch script, the commands of Slurm, what they print, and the logs of shards."""
