"""Runs a DDL script on the master, and has the slaves run it at the same point of the changes.

The script is run by psql, in one transaction. The statements that do DDL are logged, each at its
place among the rows that the script and everybody else writes; what the script does to rows is
captured as always. So each slave runs them in the order of the master, in one transaction too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pyreplica.config import ReplicationConfig
from pyreplica.errors import ApplyError, ConfigError, TimedOut
from pyreplica.master import Master
from pyreplica.replication.programs import program, run_program
from pyreplica.replication.report import report
from pyreplica.replication.wait import wait

LOOK_EVERY = 1.0
"""While a slave is waited for, its daemon's errors are looked at so often, seconds."""


@dataclass(frozen=True, slots=True)
class Executed:
    """What a script did on the master.

    Args:
        sent: how many statements go to the slaves.
        output: what psql printed.
        messages: the server's notices and warnings.
    """

    sent: int
    output: str
    messages: str


def execute(configs: Sequence[ReplicationConfig], file: Path, *, everybody: bool) -> Executed:
    """Run a script on the master of some replications.

    Args:
        configs: the replications; they must have the same master.
        file: the script, as psql reads it.
        everybody: the slaves of all the master's replications run it, not just those of these.

    Raises:
        ConfigError: they have several masters, or one calls its tables otherwise on the slave, or
            there is no such file; nothing was done.
        PyReplicaError: a statement failed; nothing was done.
    """
    if not file.is_file():
        raise ConfigError("there is no such file", where=str(file))
    for one in configs:
        if one.map:
            raise ConfigError(
                f"replication {one.name} has `map:`, and a script names the master's tables",
                hint="Alter the slave's tables by hand; on the master run the script with psql, or "
                "name the other replications after the file.",
            )
    config = configs[0]
    version = _common_master(configs)
    # a name is letters, digits, _ and -
    names = "NULL" if everybody else f"'{{{','.join(one.name for one in configs)}}}'"
    done = run_program(
        [
            program("psql", version),
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            "--single-transaction",
            "--dbname",
        ],
        where=f"{config.name}: master",
        time_limit=None,
        hint="Nothing of the script was kept. Correct it and run it again.",
        dsn=config.master,
        peer_timeout=config.peer_timeout,
        arguments=[
            f"--command=DO $$BEGIN PERFORM pyreplica.begin_script({names}); END$$",
            f"--file={file}",
            # the script may have sent its output elsewhere
            r"--command=\o",
            r"--command=\pset expanded off",
            "--command=SELECT pyreplica.end_script()",
        ],
    )
    *output, sent = done.stdout.splitlines()
    return Executed(int(sent), "\n".join(output), done.stderr.strip())


def _common_master(configs: Sequence[ReplicationConfig]) -> int:
    """The master's version; all must have the same one, with PyReplica installed."""
    found = []
    for config in configs:
        with closing(Master(config)) as master:
            master.check_installed()
            found.append((config.name, master.identity(), master.server().version))
    name, identity, version = found[0]
    for other, another, _ in found:
        if another != identity:
            raise ConfigError(
                f"replications {name} and {other} have different masters",
                hint="Name the replications of one master after the file.",
            )
    return version


def follow(
    config: ReplicationConfig, timeout: float, clock: Callable[[], float] = time.monotonic
) -> None:
    """Wait until a slave has run what the master has.

    Args:
        timeout: seconds.

    Raises:
        ApplyError: the slave could not; it goes on trying.
        TimedOut: it has not got there.
    """
    deadline = clock() + timeout
    while True:
        left = deadline - clock()
        try:
            wait(config, max(0.0, min(left, LOOK_EVERY)))
            return
        except TimedOut:
            found = report(config)
            if found.state == "failing":
                raise ApplyError(
                    f"the slave has not run it yet: {found.error}",
                    where=config.name,
                    hint=found.hint or "",
                ) from None
            if found.state in ("stopped", "died") or left <= LOOK_EVERY:
                raise
