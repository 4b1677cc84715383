"""Sets of samples, of every kind that a run can train on."""
