"""Figures of the series: functions from a table to a Figure."""
