"""The command line: flags, tables and one module a family of commands."""
