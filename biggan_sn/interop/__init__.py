"""Weights of other programs, read without running anything of theirs and made a run of ours; and
ours, written for them."""
