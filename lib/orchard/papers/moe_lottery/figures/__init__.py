"""A table in, a Figure out: one file for each notebook."""
