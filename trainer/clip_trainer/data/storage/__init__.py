"""Where bytes are: one interface over disks, S3, web servers and what fsspec knows, and the engine that reads them."""
