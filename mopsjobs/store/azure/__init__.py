"""Versioned bytes in Azure Blob Storage."""
