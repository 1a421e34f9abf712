"""Models, tokenizers and folders that others made: see `orchard.pretrained.folder`."""
