"""The demo: the main job of PyReplica on two throw-away servers, with a slave that goes down."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pyreplica.demo.cluster import Cluster
from pyreplica.demo.interrupts import Interrupts, unheard
from pyreplica.demo.outcome import Outcome
from pyreplica.demo.programs import Programs
from pyreplica.demo.steps import NAME, Screen, Steps
from pyreplica.errors import PyReplicaError

NO_LOGS = "The logs are gone with the servers; `pyreplica demo --keep` keeps them."


def demo(
    screen: Screen,
    *,
    seconds: int,
    scale: int,
    clients: int,
    keep: bool = False,
    before_compare: Callable[[str], object] | None = None,
) -> Outcome:
    """Run the demo. Whatever happens, no program, server or folder of it is left.

    Args:
        screen: is told what happens.
        seconds: how long pgbench runs.
        scale: pgbench's; 100,000 accounts each.
        clients: pgbench's.
        keep: leave the folder with the logs and the configuration; the screen is told its name.
        before_compare: called with the slave's connection string before the comparison.

    Raises:
        PyReplicaError: something failed; the details have the end of the daemon's log.
        KeyboardInterrupt, SystemExit: a signal came.
    """
    with Interrupts() as interrupts:
        try:
            with _folder(screen, keep) as folder, ExitStack() as stack:
                screen.step("Two PostgreSQL servers")
                screen.busy("initdb")
                master = _server(stack, interrupts, folder, keep, "master", {})
                settings = {"max_prepared_transactions": "10"}
                slave = _server(stack, interrupts, folder, keep, "slave", settings)
                temporary = folder / "tmp"
                temporary.mkdir()
                stack.callback(shutil.rmtree, temporary)
                programs = Programs(interrupts, _environment(master, temporary))
                stack.callback(programs.end_all)
                steps = Steps(screen, programs, stack, folder, master, slave)
                return steps.run(seconds, scale, clients, before_compare)
        except PyReplicaError as error:
            interrupts.check()  # that is what made it fail
            raise PyReplicaError(
                error.what,
                where=error.where or "demo",
                hint=error.hint if keep else f"{error.hint} {NO_LOGS}".strip(),
                details=error.details,
            ) from error


@contextmanager
def _folder(screen: Screen, keep: bool) -> Iterator[Path]:
    """The folder of everything; in the end it is gone, or holds what is worth keeping."""
    folder = Path(tempfile.mkdtemp(prefix="pyreplica-"))
    try:
        folder.chmod(0o711)  # run by root, the servers belong to another account
        yield folder
    finally:
        if keep:
            screen.say(f"The logs and the configuration are kept in {folder}")
        else:
            shutil.rmtree(folder)


def _server(
    stack: ExitStack,
    interrupts: Interrupts,
    folder: Path,
    keep: bool,
    name: str,
    settings: Mapping[str, str],
) -> Cluster:
    """Make and start a server with the demo's database, to be removed by the stack."""
    interrupts.check()
    with unheard():
        server = Cluster.create(folder, name, settings)
        stack.callback(_destroy, server, folder / f"{name}.log" if keep else None)
        server.start()
        server.create_database(NAME)
    return server


def _destroy(server: Cluster, log: Path | None) -> None:
    if log is not None:
        with suppress(OSError):  # it was never started
            shutil.copyfile(server.log_path, log)
    with unheard():
        server.destroy()


def _environment(server: Cluster, temporary: Path) -> dict[str, str]:
    """What the demo's programs see: the caller's, but nothing that makes libpq act otherwise."""
    programs = server.binary("pgbench").parent
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary),
    }
