"""Models that others made, from folders on this disk: a causal language model as the synthesizer, an embedding model."""
