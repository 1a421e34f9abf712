"""The figures of the series: a table in, a Figure out."""
