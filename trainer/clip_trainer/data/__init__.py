"""Data: shards in storage, their index, the order in which they are read, and batches of them.

The parts, from storage to batch: `location` (what `data.train` may be), `source` (bytes from paths and URLs), `tar`
and `grouping` (the shard format), `index` (what is in the shards), `samples` (what a set of samples is: an index, a
`table`, `synthetic` ones, several `joined`) and `opening` (from run.yaml to one), `order` with `lanes` (each sample
once an epoch) and `resampling` (drawn by weights), `reader` (one sample), `captions` (one of its texts), `loader` and
`eval_stream` (batches). `pack`, `reshard` and `gather` write shards. Only the loaders import torch; the command line
uses the others without it.
"""
