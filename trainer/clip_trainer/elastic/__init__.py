"""Keep a group of worker processes training while pods, workers and the coordinator come and go.

Workers meet at a `coordinator`, which tells each `membership` who trains with whom, generation after generation; their
`process_group` changes, the processes stay. `launch` runs one `agent` per pod: it keeps a process in each `slot`, and
replaces one that has died, or that hangs, which its `beacon` shows and the `watchdog` judges. What happens next is
decided by pure functions and sans-IO cores (`policy`, `watchdog`, `coordinator`); processes, sockets and clocks are at
the rim.
"""
