"""What is computed and kept: trainings on RULER-lite, drift of the state, timings, exact checks, published shapes."""
