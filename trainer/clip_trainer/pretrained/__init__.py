"""Published weights: which there are, where they lie, and how they get here verified. Imports no torch."""
