"""Weights in and out: every file OpenCLIP can load, read without running anything in it."""
