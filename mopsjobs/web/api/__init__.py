"""The HTTP API, and its description as OpenAPI."""
