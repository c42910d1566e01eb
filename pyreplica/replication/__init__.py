"""One replication: its loop and recovery, the initial copy, and the comparison."""
