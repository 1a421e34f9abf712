"""Finding Fantastic Experts in MoEs (Jaiswal et al. 2025, arXiv 2504.05586): which experts of a mixture can go.

Read `method` first: dropping experts, the statistics of a pass over text, and the criteria that are computed from them.
"""
