"""Writing shards: always the same bytes, and an interruption cannot spoil them."""
