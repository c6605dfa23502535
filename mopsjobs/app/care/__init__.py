"""Care for cache, store and engines, and figures over all jobs."""
