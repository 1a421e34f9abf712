"""What is computed and kept: training stages, measurements on finished arms, exact checks, times, the published shapes."""
