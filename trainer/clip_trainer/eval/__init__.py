"""Evaluation on held-out data, shared by all ranks and independent of how many there are."""
