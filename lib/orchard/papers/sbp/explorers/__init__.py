"""A trained synthesizer under sliders, with its static twin."""
