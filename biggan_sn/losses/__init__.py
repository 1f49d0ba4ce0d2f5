"""Pure functions of logits, critics and networks."""
