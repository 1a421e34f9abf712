"""Figures of the series: a table in, a Figure out."""
