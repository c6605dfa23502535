"""Read jobs, events and statistics from the cache, in SQL."""
