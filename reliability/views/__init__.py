"""Sequences of commands, after each of which all views of each job are compared with one another and with a model."""
