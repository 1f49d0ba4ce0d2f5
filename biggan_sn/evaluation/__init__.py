"""Samples, pictures of them, and scores."""
