"""Places a run can be submitted to; every one implements `clipctl.backends.base.Backend`."""
