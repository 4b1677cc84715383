"""Saving and restoring the training state in the commit-record format of `clipctl.contract.commits`."""
