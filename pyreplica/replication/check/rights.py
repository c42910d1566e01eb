"""The rights that the daemon's roles need, and lack."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pyreplica.errors import PyReplicaError
from pyreplica.master import Master
from pyreplica.replication.check.finding import Finding
from pyreplica.slave import Slave

READ_ON_MASTER = (
    *("replica_log", "replica_table", "replica_tick", "replica_version", "replica_segment"),
    *("replica_partition", "replica_capture", "changes", "capture_trigger", "capture_function"),
    *("replica_filter", "hidden_columns", "doorbell", "replica_log_id"),
    *("replica_node", "replica_merge", "replica_row"),
)
WRITTEN_ON_MASTER = ("replica_slave",)
CALLED_ON_MASTER = (
    *("restate", "rotate_log", "set_doorbell", "tick", "rings", "sequences", "sequence_values"),
    *("log_kept", "at_work", "waits_since", "log_bytes_after", "candidates", "refusal"),
    *("add_table", "remove_table", "set_capture", "code_of_others"),
    *("log_of", "bit_for", "set_filter", "keep_filter", "set_python_filter", "drop_filters"),
    *("installer", "sees_ddl", "drift", "follow_drift", "catalog_mark"),
    *("set_forwarding", "forwards", "received", "skipped", "set_merge"),
)
WRITTEN_ON_SLAVE = (
    *("replica_cursor", "replica_copy", "replica_status", "replica_conflict", "replica_pause"),
    "replica_source",
    # where it is a master as well: merging
    "replica_row",
)
READ_ON_SLAVE = ("replica_version", "replica_node", "replica_merge")
CALLED_ON_SLAVE = (
    *("move_cursor", "expect", "failing", "run_ddl", "merge", "pause", "resume"),
    # where it is a master as well
    *("forwards", "forward_ddl", "rotate_log"),
    *("merge_versions", "has_seen", "is_later", "latest_of", "seen_of_both"),
    *("keeps_siblings", "shown_of", "with_sibling"),
)
"""What a daemon's role needs in the schema pyreplica, whatever it is given by sql/roles.sql."""


def missing_rights(side: Master | Slave) -> list[str]:
    """The GRANTs that the role of an installed side lacks in PyReplica's schema."""
    if isinstance(side, Master):
        return side.missing_rights(READ_ON_MASTER, WRITTEN_ON_MASTER, CALLED_ON_MASTER)
    missing = side.missing_rights(READ_ON_SLAVE, WRITTEN_ON_SLAVE, CALLED_ON_SLAVE)
    return missing if side.may_stage() else [*missing, side.grant_to_stage()]


def rights(side: Master | Slave, missing: list[str]) -> Iterator[Finding]:
    """The rights that the role lacks in PyReplica's schema."""
    role = side.server().role
    for grant in missing:
        what = grant.removeprefix("GRANT ").rpartition(" TO ")[0]
        yield Finding(
            "problem",
            side.side,
            f"role {role} lacks a right: {what}",
            f"{grant}; or have a superuser run sql/roles.sql with -v "
            f"{side.side}_role={shlex.quote(role)}.",
        )


def installed(side: Master | Slave) -> bool:
    """Whether a side is installed and may be asked."""
    try:
        side.check_installed()
    except PyReplicaError:
        return False
    return not missing_rights(side)
