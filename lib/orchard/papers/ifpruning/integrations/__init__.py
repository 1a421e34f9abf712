"""IFPruning in decoders of `transformers`: the wrapper, folders, batches of the reader's own text, and a stock Llama as oracle."""
