"""Imported by every Python process that a test starts (PYTHONPATH is set in conftest.py)."""

import close_network

close_network.close()
