"""The figures of the series: a table in, a Figure out."""

from orchard.papers.ifpruning.figures.stdlib10 import example_text, prompt_lengths

__all__ = ["example_text", "prompt_lengths"]
