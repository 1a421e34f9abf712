"""What is learned from: FactGrid and Stdlib-10, instructions of the reader's own, and the paper's own numbers."""
