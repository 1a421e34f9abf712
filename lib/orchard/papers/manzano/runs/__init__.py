"""What is computed and kept: the tokenizer, its features and codes, the language model, the image decoder, and their scores."""
