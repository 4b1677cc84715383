"""Shards: the tar format and the samples in it."""
