"""What is learned from: SceneWorld and what is said about its pictures, the reader that scores them, and the paper's own numbers."""
