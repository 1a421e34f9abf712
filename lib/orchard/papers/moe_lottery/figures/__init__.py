"""Figures of the MoE lottery series: a table in, a figure out."""
