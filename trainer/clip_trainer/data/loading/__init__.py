"""From the order to batches: reading, decoding and tokenising by threads, within a budget of memory."""
