"""From an OpenCLIP training command to run.yaml."""
