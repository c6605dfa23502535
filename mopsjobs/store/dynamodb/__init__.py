"""Versioned bytes in a DynamoDB table."""
