"""Figures that a slider moves: the weights and the state of a layer, and a question to a trained model."""
