"""Benchmarks: PyReplica beside other replication systems, in one run. See docs/performance.md."""
