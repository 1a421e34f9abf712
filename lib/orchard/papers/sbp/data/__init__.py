"""What is learned from: worlds whose every probability is known, corpora of real text, and the paper's own numbers."""
