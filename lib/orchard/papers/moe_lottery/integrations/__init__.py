"""The method on checkpoints of Hugging Face: read layer by layer, scored, pruned, written."""
