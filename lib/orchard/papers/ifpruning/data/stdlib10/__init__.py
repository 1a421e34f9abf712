"""Stdlib-10: ten domains of real facts and text that are on every machine."""
