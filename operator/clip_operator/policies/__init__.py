"""What to do with a run: one policy a file, each a pure function of the world and the time.

A policy returns the actions it wants, or None if the run is none of its business and the next one should look.
"""
