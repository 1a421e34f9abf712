"""What is computed and kept: the five stages (pair, tune, synthesise, filter, mix), the trainings, and what is measured."""
