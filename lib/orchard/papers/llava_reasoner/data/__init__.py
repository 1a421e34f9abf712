"""What is learned from: charts whose every fact is known, questions, a teacher that errs by a known law, marking, the paper's numbers."""
