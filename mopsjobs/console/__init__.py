"""Results of commands, and the one printer."""
