"""How ranks share a model: each has all of it (`replicated`), or each keeps a part (`sharded`).

Everything else talks to the `Parallel` of `strategy`. Gradients are sums over ranks, never averages, in both.
"""
