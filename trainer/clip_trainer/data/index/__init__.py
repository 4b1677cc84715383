"""The shard index: what is in the shards, so that any sample is one verified read away."""
