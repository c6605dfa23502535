"""The server, and the routes of its pages."""
