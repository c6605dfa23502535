"""The command line: flags, tables and one module per command."""
