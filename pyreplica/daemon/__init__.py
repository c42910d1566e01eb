"""The process around the replications: threads, signals."""
