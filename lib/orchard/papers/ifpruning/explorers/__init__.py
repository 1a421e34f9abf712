"""Corpora and the cache of sub-networks under sliders, each with its static twin."""
