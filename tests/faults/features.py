"""Features that have code of their own in the steps of a batch: each makes a cell ready for one."""

from __future__ import annotations

from dataclasses import replace

from pyreplica.replication.wait import wait
from tests.faults.cell import CATCH_UP, REPLICATED, Cell
from tests.support import DEFAULTS, config, copy, running, sql, value

_LAST_UPDATE = "last_update_wins"
"""What the way to merge is called by which the later change of a row counts."""
_MERGED = {
    "public.item": _LAST_UPDATE,
    "public.gate_0": "columns",
    "public.gate_1": _LAST_UPDATE,
    "public.gate_2": {"counters": ["n"]},
}
_CONDITION = "n % 3 <> 1"
_TRANSFORM = """
def change(change):
    if change.table == "public.item" and "v" in change.row:
        change.row["v"] += "!"
    return change
"""


def merged(cell: Cell) -> None:
    """The slave may be written as well, and some tables are merged."""
    settings = {"both_ways": True, "merge": _MERGED}
    cell.options(**settings)
    cell.install()
    there, here = cell.databases.master, cell.databases.slave
    back = replace(cell.databases, master=here, slave=there)
    cell.install(back, "back", **settings, commit="one-phase")
    way_back = config(back, "back", **settings, commit="one-phase")
    cell.once_copied.append(lambda: copy(way_back, rows=False))
    cell.carries_sequences = False

    def versions() -> None:
        """The changes have gone through the merge on the slave."""
        query = "SELECT array_agg(DISTINCT relid::regclass::text) FROM pyreplica.replica_row"
        assert {"item", "gate_2"} <= {name.rpartition(".")[2] for name in value(here, query)}

    cell.checks.append(versions)


def filtered(cell: Cell) -> None:
    """The slave gets some of a table's rows, which come and go."""
    cell.options(filters={"public.item": {"where": _CONDITION}})
    cell.install()
    cell.shown["item"] = f"(SELECT * FROM public.item WHERE {_CONDITION})"
    cell.hard_to_count()


def transformed(cell: Cell) -> None:
    """A function in Python changes a column."""
    path = cell.folder / "transform.py"
    path.write_text(_TRANSFORM)
    path.chmod(0o600)
    cell.options(transform=str(path))
    cell.shown["item"] = "(SELECT id, v || '!', n FROM public.item)"


def forwarding(cell: Cell) -> None:
    """The slave captures what it applies: it has a slave of its own, which has to get it, too."""
    cluster = cell.databases.slave_cluster
    name = f"{cell.databases.name}_leaf"
    sql(cluster.dsn(), f"CREATE DATABASE {name} TEMPLATE faults_template")
    cell.further.append(name)
    middle = cell.databases.slave
    databases = replace(
        cell.databases, master=middle, slave=cluster.dsn(name), master_cluster=cluster
    )
    onward = config(databases, "onward", **DEFAULTS, forward=True)

    def grow() -> None:
        cell.install(databases, "onward", forward=True)
        copy(onward)

    def follows() -> None:
        with running(onward) as daemon:
            wait(onward, CATCH_UP)
            assert daemon.said("conflict") == []
        for table in REPLICATED:
            if table != "extra":
                cell.same_rows(table, middle, databases.slave, f"public.{table}")

    cell.once_copied.append(grow)
    cell.checks.append(follows)
