"""The benchmark: what is measured, who takes part, how it is timed and shown."""
