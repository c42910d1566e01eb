"""A sample of a transform; docs/transforms.md describes what one can do.

The file belongs to root or to the daemon's account, and nobody else may write it.
"""

from __future__ import annotations

import logging

from pyreplica.transform import Batch, Change, Conflict, Resolution

log = logging.getLogger("pyreplica.transform")


def before_batch(batch: Batch) -> None:
    """Called before the first change of a batch, also when it is tried again."""
    log.debug("batch %s of %s", batch.number, batch.replication)


def change(change: Change) -> Change | list[Change] | None:
    """Called for each change; gives what is applied in its place."""
    if change.table == "public.session":
        return None  # nothing of it goes to the slave
    if change.table == "public.customer" and change.row.get("phone"):
        # an update has only the columns that it has changed
        change.row["phone"] = "..." + change.row["phone"][-3:]
    if change.table == "public.orders" and change.op == "insert":
        # a row of another replicated table, beside this one
        mark = Change(
            "public.order_mark", "insert", dict(change.key), {"total": change.row["total"]}
        )
        return [change, mark]
    return change


def conflict(conflict: Conflict) -> Resolution:
    """Called for conflicts whose policy in `conflicts:` is `transform`."""
    here = conflict.slave_row
    if conflict.table == "public.customer" and here is not None and here["name"] is not None:
        # the slave's name is kept, and everything else is the master's
        conflict.row["name"] = here["name"]
        return conflict.row
    return "apply"
