"""Checks before a long job, on the nodes that it is to run on."""
