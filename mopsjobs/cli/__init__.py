"""The command line: the parser, shared flags and tables, and one module per command."""
