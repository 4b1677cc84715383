"""Keep a group of worker processes training while pods, workers and the rendezvous store come and go.

`launch` runs one agent per pod. The agent meets the others through torch's c10d rendezvous (the one torchrun uses),
starts one worker per device, and restarts the group in place when a worker dies or a pod joins or leaves. What it does
next is decided by pure functions (`policy`); processes, store and clock are at the rim.
"""
