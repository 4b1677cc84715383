"""Long runs of real agents and workers under random faults, judged by their ledgers."""
