"""Tells from the numbers of a run that it is collapsing; knows nothing of networks."""
