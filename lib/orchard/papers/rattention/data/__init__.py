"""What is learned from: RULER-lite as tokens and as text, and the strata by which a test text is scored."""
