"""Instruction-Following Pruning for Large Language Models (Hou et al., ICML 2025, arXiv 2501.02086)."""
