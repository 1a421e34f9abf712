"""Synthetic bootstrapped pretraining (arXiv 2509.15248).

A model learns from pairs of similar documents to write one when shown the other; what it writes is a second corpus. Read `method` first.
"""
