"""LLaVA-Reasoner: improving the chain-of-thought reasoning of vision-language models (arXiv 2410.16198).

Rationales that a teacher wrote teach a model to reason before it answers; pairs of its own chains, told apart by their answers alone,
teach it to reason better, and make it a judge of chains. Read `method` first.
"""
