"""Data: shards in storage, their index, the order in which they are read, and batches of them.

The parts, from storage to batch: `location` (what `data.train` may be), `source` (bytes from paths and URLs), `tar`
and `grouping` (the shard format), `index` (what is in the shards), `prp` and `lanes` (the order), `reader` (one
sample), `loader` and `eval_stream` (batches). `pack` writes shards. Only the last two of the reading side import
torch; the command line uses the others without it.
"""
