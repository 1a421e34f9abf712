"""Improving chain-of-thought reasoning of vision-language models (LLaVA-Reasoner, arXiv 2410.16198).

Rationales are distilled from a teacher and filtered by the short answer; preference pairs then come from the model's own checked outcomes.
"""
