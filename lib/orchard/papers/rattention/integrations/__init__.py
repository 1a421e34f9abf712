"""The layer in decoders that others made."""
