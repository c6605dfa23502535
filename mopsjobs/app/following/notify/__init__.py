"""Notifications: a message when a job ends, fails at a high rate or falls silent, sent once by one of its watchers."""
