"""Finished models under sliders, and what needs none: regrouping and the lattice of codes."""
