"""The figures of the series: a table in, a Figure out. A notebook imports the module it draws with."""
