"""A trained model under the reader's hands: dropping experts, asking questions."""
