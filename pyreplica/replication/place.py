"""Where a generation of a master's table belongs on the slave."""

from __future__ import annotations

from dataclasses import replace

from pyreplica.master import Master
from pyreplica.model import CapturedTable, SlaveTable
from pyreplica.slave import Slave
from pyreplica.slave.misfit import Problem, misfit


def placed(
    master: Master, slave: Slave, captured: CapturedTable
) -> tuple[SlaveTable | None, Problem | None]:
    """The slave's table, and why it cannot take the master's rows, if it cannot."""
    masks = master.masking.of(captured)
    table = slave.describe(captured, masks)
    if table is None:
        # a change from before the table was renamed, and the slave's table is renamed already
        for now in master.tables():
            if now.relid == captured.relid:
                renamed = replace(captured, schema=now.schema, name=now.name)
                table = slave.describe(renamed, masks)
    return table, misfit(captured, table, slave.place(captured))
