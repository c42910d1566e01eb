"""PyReplica at work: its memory, its log's upkeep, its rest, its copying and comparing."""
