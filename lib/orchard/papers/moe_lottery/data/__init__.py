"""What is learned from and asked about: a world with known facts, five domains of text, probes, episodes, the paper's own numbers."""
