"""Instruction-Following Pruning for Large Language Models (Hou et al., ICML 2025, arXiv 2501.02086).

Read `method/` first: SoftTopK, masked layers and the predictor; `experiments/__init__.py` names what is asked of them.
"""
