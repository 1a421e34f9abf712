"""Orchard: research papers as notebook series over one thin PyTorch Lightning library."""

__version__ = "0.1.0"
