"""What is computed and kept: every Run class of the paper, and what it is made of."""
