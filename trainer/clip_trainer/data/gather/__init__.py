"""`clipctl data gather`: a table of addresses becomes shards."""
