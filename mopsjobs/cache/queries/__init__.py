"""Read the cache: jobs, events, statistics, in SQL."""
