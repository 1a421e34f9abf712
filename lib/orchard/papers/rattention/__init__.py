"""RATTENTION (arXiv 2506.15545): sliding-window attention plus linear attention over what the window has left behind.

Three of four layers keep a small window and one state of constant size; the paper claims that 512 tokens are window enough.
Read ``method/`` first: it needs nothing else of this package.
"""
