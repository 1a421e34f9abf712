"""Kernels: the operations that decide the speed, each as a naive reference, a plain PyTorch form and Triton kernels."""
