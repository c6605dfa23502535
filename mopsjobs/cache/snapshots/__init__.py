"""Publish what a cache has of the jobs of its registry, and begin an empty cache with it."""
