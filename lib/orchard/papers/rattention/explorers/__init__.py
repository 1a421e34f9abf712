"""Models under sliders, with their static twins: a layer's weights and state, a question of RULER-lite, a completion."""
