"""What the CLI, the operator and the trainer agree on; imports nothing else of ours."""
