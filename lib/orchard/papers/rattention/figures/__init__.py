"""Figures of the series, a file per part: a table in, a figure out."""
