"""Experiment logs, TensorBoard and Weights & Biases, in OpenCLIP's names. Both packages are optional."""
