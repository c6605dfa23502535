"""Results of commands, the one printer, and what a terminal may get."""
