"""Figures of the series: a table in, a Figure out. A notebook imports the module that it draws with."""
