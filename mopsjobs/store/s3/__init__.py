"""Versioned bytes in a bucket of S3."""
