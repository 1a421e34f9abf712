"""Models that others made, from folders on this disk, as parts of Manzano; the tokenizer and the unified model as folders to take away."""
