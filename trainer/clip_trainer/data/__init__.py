"""Data: shards in storage, their index, the order in which they are read, and batches of them.

From the bottom up, each using only what stands above it:

- `storage`: bytes from disks, S3, web servers; `location` is what a user may name
- `shards`: the tar format, and the samples in it
- `index`: what is in the shards; `dataset` opens them, `reader` reads a sample and verifies it
- `writing`: new shards
- `sample_set` (the protocol) and `samples`: what a run can train on: indexed shards, tables, made-up ones, several in a
  row; `opening` is the way from run.yaml to one
- `order`: which sample when; `lanes` (each once an epoch), `resampling` (drawn by weights)
- `loading`: batches; the only part that imports torch
- `pack`, `gather`, `check`, `bench`: the commands of `clipctl data`
"""
