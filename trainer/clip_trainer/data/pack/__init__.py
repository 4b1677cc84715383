"""`clipctl data pack`: images and captions become shards."""
