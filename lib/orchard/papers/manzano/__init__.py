"""Manzano (arXiv 2509.16197): one language model that reads pictures as continuous vectors and writes them as discrete codes.

Both come from one vision encoder, the hybrid tokenizer; the paper claims that reading and writing then hardly disturb each other.
Read ``method/`` first: it needs nothing else of this package.
"""
