"""The command line: one lazily loaded file per verb, and no computation."""
