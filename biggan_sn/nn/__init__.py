"""Tensor code that knows nothing of GANs."""
