"""The command line by itself: help, usage, configurations and servers that cannot be used."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyreplica import __version__
from pyreplica.cli.main import COMMANDS as NAMES
from pyreplica.cli.main import needed
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import PyReplicaError
from tests.conftest import Databases
from tests.integration.cli_support import (
    COMMANDS,
    OTHER_COMMANDS,
    SECRET,
    TABLES,
    execute,
    once,
    pair,
    refused,
    rows,
    unchanged,
    wait,
    write_config,
)
from tests.support import LIMIT, config_file, connect, daemon, eventually, pyreplica, set_up

NOWHERE = f"host=127.0.0.1 port=1 dbname=shop user=me password={SECRET}"
"""A connection string that nobody listens at."""


def run_bare(*arguments: str, code: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line without --config."""
    done = subprocess.run(
        [sys.executable, "-m", "pyreplica", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


# Help and usage


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("copy", ("copy",)),
        ("--config run copy shop", ("copy",)),
        ("--config=run add-table run", ("add-table",)),
        ("", NAMES),
        ("--help", NAMES),
        ("--conf run copy", NAMES),
        ("--config", NAMES),
        ("coppy", NAMES),
    ],
)
def test_only_what_a_command_line_calls_is_imported(line: str, names: tuple[str, ...]) -> None:
    assert needed(line.split()) == names


def test_the_commands_of_these_tests_are_all_there_are() -> None:
    assert sorted(NAMES) == sorted([*COMMANDS, *OTHER_COMMANDS])


@pytest.mark.parametrize("command", [*COMMANDS, *OTHER_COMMANDS])
def test_the_help_of_a_command_shows_an_example(command: str) -> None:
    shown = run_bare(command, "--help", code=0).stdout
    config_ = "" if command in ("demo", "service") else "--config shop.yaml "
    assert f"example: pyreplica {config_}{command}" in (" ".join(shown.split()))


def test_the_help_names_every_command() -> None:
    shown = run_bare("--help", code=0).stdout
    for command in (*COMMANDS, *OTHER_COMMANDS):
        assert re.search(rf"^    {command}\s", shown, re.MULTILINE), command


def test_the_version_is_shown() -> None:
    assert run_bare("--version", code=0).stdout == f"pyreplica {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "required: COMMAND"),
        (("copie",), "invalid choice: 'copie'"),
        (("status", "--yaml"), "unrecognized arguments: --yaml"),
        (("copy", "shop", "archive"), "unrecognized arguments: archive"),
        (("copy", "--workers", "0"), "'0' is not a whole number from 1 to 64"),
        (("copy", "--workers", "many"), "'many' is not a whole number from 1 to 64"),
        (("wait", "--timeout", "soon"), "'soon' is no duration"),
        (("compare", "--timeout", "-1"), "'-1' is no duration"),
    ],
)
def test_wrong_usage_says_what_is_wrong(arguments: tuple[str, ...], says: str) -> None:
    assert says in run_bare(*arguments, code=2).stderr.splitlines()[-1]


# Configurations


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_configuration_is_named(command: str, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    refused(
        path,
        command,
        *COMMANDS[command],
        code=2,
        says=f"{path}: cannot be read: No such file or directory",
        hint="sample",
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_replication_is_named(command: str, tmp_path: Path) -> None:
    path = write_config(tmp_path / "c.yaml", {"shop": {"master": NOWHERE, "slave": NOWHERE}})
    arguments = (command, "shoop", *COMMANDS[command])
    refused(
        path, *arguments, code=2, says="there is no replication named shoop", hint="known: shop"
    )


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("", "is empty", ""),
        ("replications: [", ":1: cannot be read as YAML", ""),
        ("replications:\n  shop:\n    mastre: x\n", ":3: replications.shop.mastre: unknown", "ma"),
        ("replications:\n  shop:\n    master: a=b\n", "replications.shop.slave: is missing", ""),
        (
            f"replications:\n  shop:\n    master: {SECRET}\n    slave: a=b\n",
            ":3: replications.shop.master: expected a libpq connection string",
            "dbname=NAME",
        ),
        (
            "replications:\n  shop:\n    master: password=${NOT_THERE}\n    slave: a=b\n",
            "the environment variable NOT_THERE is not set",
            "",
        ),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(
    text: str, says: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert SECRET not in refused(path, "check", code=2, says=says, hint=hint)


def test_the_configuration_is_found_by_the_environment_and_by_either_place_of_the_option(
    databases: Databases, tmp_path: Path
) -> None:
    path = str(config_file(tmp_path, databases))
    run_bare("install", code=0, PYREPLICA_CONFIG=path)
    run_bare("--config", path, "status", code=1, PYREPLICA_CONFIG="/none")
    shown = run_bare("status", "--config", path, code=1, PYREPLICA_CONFIG="/none")
    assert "not copied" in shown.stdout


def test_a_variable_of_the_environment_reaches_the_connection(
    databases: Databases, tmp_path: Path
) -> None:
    path = write_config(
        tmp_path / "c.yaml", {"shop": {"master": "${THE_MASTER}", "slave": databases.slave}}
    )
    shown = run_bare("--config", str(path), "check", code=1, THE_MASTER=databases.master)
    assert "shop: master: ok: connected as postgres" in shown.stdout


# Servers


def test_a_server_that_cannot_be_reached_is_named_by_every_command(
    databases: Databases, tmp_path: Path
) -> None:
    pyreplica(config_file(tmp_path, databases), "install")
    for side in ("master", "slave"):
        path = write_config(tmp_path / "c.yaml", {"shop": {**pair(databases), side: NOWHERE}})
        says = f'shop: {side}: cannot connect: connection to server at "127.0.0.1", port 1 failed'
        for command in ("install", "copy", "wait", "compare"):
            refused(path, command, *COMMANDS[command], says=says, hint="connection string")
        checked = pyreplica(path, "check", code=1)
        assert f"shop: {side}: problem: cannot connect" in checked.stdout
        shown = pyreplica(path, "status", code=1)
        assert "unreachable" in shown.stdout
        assert says in shown.stdout
        with daemon(path) as running:
            eventually(lambda: says in running.log, lambda: running.log)  # noqa: B023
            assert running.stop() == 0
        assert SECRET not in checked.stdout + shown.stdout + running.log


def test_a_wrong_database_and_a_wrong_role_are_named(databases: Databases, tmp_path: Path) -> None:
    wrong = {
        'database "nosuch" does not exist': databases.master_cluster.dsn("nosuch"),
        'role "nobody_here" does not exist': databases.master_cluster.dsn(
            databases.name, user="nobody_here"
        ),
    }
    for says, dsn in wrong.items():
        path = write_config(tmp_path / "c.yaml", {"shop": {**pair(databases), "master": dsn}})
        with unchanged(databases):
            refused(path, "install", says=says)
            refused(path, "copy", says=says)


@pytest.mark.parametrize(
    "nonsense",
    [
        f"colour=blue password={SECRET}",
        f"host=h password='{SECRET}",
        f"{SECRET} = x y",
        f"postgresql://me:{SECRET}@[::1/shop",
        f"postgresql://me:{SECRET}@h/shop?colour=blue",
    ],
)
def test_a_connection_string_that_makes_no_sense_is_not_shown(
    nonsense: str, databases: Databases, tmp_path: Path
) -> None:
    path = write_config(
        tmp_path / "c.yaml", {"shop": {**pair(databases), "master": nonsense}}, log_level="debug"
    )
    for command in ("install", "copy", "wait"):
        shown = (
            refused(
                path,
                command,
                *COMMANDS[command],
                says="shop: master: the connection string cannot be read",
                hint="host=... dbname=... user=...",
            )
            if command == "install"
            else pyreplica(path, command, *COMMANDS[command], code=1).stderr
        )
        assert SECRET not in shown
    for command in ("check", "status"):
        done = pyreplica(path, command, code=1)
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    done = pyreplica(path, "run", code=1)
    assert "the connection string cannot be read" in done.stderr
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr


# Passwords


@contextmanager
def password_required(cluster: Cluster, role: str) -> Iterator[None]:
    """A superuser whom the server asks for a password."""
    ((hba,),) = rows(cluster.dsn(), "SELECT current_setting('hba_file')")
    before = Path(hba).read_text()
    execute(cluster.dsn(), f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{SECRET}'")
    Path(hba).write_text(f"local all {role} scram-sha-256\n" + before)
    execute(cluster.dsn(), "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        Path(hba).write_text(before)
        execute(cluster.dsn(), "SELECT pg_reload_conf()")


@pytest.fixture
def with_password(databases: Databases) -> Iterator[str]:
    """A role that needs the password, on both servers."""
    role = f"keeper_{secrets.token_hex(4)}"
    with (
        password_required(databases.master_cluster, role),
        password_required(databases.slave_cluster, role),
    ):
        eventually(lambda: not _lets_in(databases.slave_cluster.dsn(databases.name, user=role)))
        eventually(lambda: not _lets_in(databases.master_cluster.dsn(databases.name, user=role)))
        yield role
    for cluster in (databases.master_cluster, databases.slave_cluster):
        execute(cluster.dsn(), f"DROP OWNED BY {role}")
        for (name,) in rows(cluster.dsn(), "SELECT datname FROM pg_database WHERE datallowconn"):
            execute(cluster.dsn(name), f"REASSIGN OWNED BY {role} TO postgres")
        execute(cluster.dsn(), f"DROP ROLE {role}")


def _lets_in(dsn: str) -> bool:
    try:
        connect(dsn).close()
    except PyReplicaError:
        return False
    return True


def test_a_password_is_used_and_never_shown(
    with_password: str, databases: Databases, tmp_path: Path
) -> None:
    def dsn(cluster: Cluster, password: str) -> str:
        return cluster.dsn(databases.name, user=with_password, password=password)

    master, slave = databases.master_cluster, databases.slave_cluster
    execute(databases.master, TABLES)
    wrong = f"{SECRET}-but-wrong"
    path = write_config(
        tmp_path / "wrong.yaml",
        {"shop": {"master": dsn(master, wrong), "slave": dsn(slave, wrong)}},
    )
    shown = refused(path, "install", says="password authentication failed for user")
    path = write_config(
        tmp_path / "shop.yaml",
        {"shop": {"master": dsn(master, SECRET), "slave": dsn(slave, SECRET)}},
        log_level="debug",
    )
    shown += "".join(
        done.stdout + done.stderr for done in (pyreplica(path, "install"), pyreplica(path, "check"))
    )

    # pg_dump waits for this lock, so that its command line can be looked at
    with connect(databases.master) as lock, lock.transaction():
        lock.execute("LOCK TABLE public.item IN ACCESS EXCLUSIVE MODE")
        copying = subprocess.Popen(
            [sys.executable, "-m", "pyreplica", "--config", str(path), "copy", "--schema"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        eventually(lambda: "pg_dump" in _command_lines())
        seen = _command_lines()
    output, _ = copying.communicate(timeout=LIMIT)
    assert copying.returncode == 0, output
    assert with_password in seen
    assert SECRET not in seen
    shown += output

    with daemon(path) as running:
        execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
        wait(path)
        shown += pyreplica(path, "compare").stdout + pyreplica(path, "status").stdout
        execute(databases.slave, "INSERT INTO item VALUES (1001, 'clash', 1)")
        execute(databases.master, "INSERT INTO item VALUES (1001, 'clash', 1)")
        shown += str(once(path, "failing"))
        shown += pyreplica(path, "status", code=None).stdout
    shown += running.log + pyreplica(path, "uninstall").stdout
    assert "keeper" in shown or with_password in shown
    assert SECRET not in shown
    assert SECRET not in repr(rows(databases.master, "SELECT * FROM pg_stat_activity"))


def _command_lines() -> str:
    """The command lines of all processes, as anybody on the machine can read them."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


# Output


def test_names_are_shown_as_they_are_and_never_taken_for_markup(
    databases: Databases, tmp_path: Path
) -> None:
    name = 'public."a :smile: [/b] [red]c"'
    execute(databases.master, f"CREATE TABLE {name} (id int PRIMARY KEY)")
    path = config_file(tmp_path, databases)
    shown = pyreplica(path, "check", code=1).stdout + pyreplica(path, "install").stdout
    shown += pyreplica(path, "copy", "--schema").stderr + pyreplica(path, "compare").stdout
    assert shown.count("a :smile: [/b] [red]c") >= 4


def test_a_terminal_without_a_character_shows_it_escaped(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, "CREATE TABLE größe (id int PRIMARY KEY)")
    path = str(config_file(tmp_path, databases))
    shown = run_bare("--config", path, "install", code=0, PYTHONIOENCODING="ascii").stdout
    assert "gr\\xf6\\xdfe" in shown


def test_a_long_line_stays_one_line_in_a_pipe(databases: Databases, tmp_path: Path) -> None:
    columns = [f"{letter * 60}" for letter in "abcdef"]
    execute(
        databases.master,
        f"CREATE TABLE wide ({', '.join(f'{c} int' for c in columns)}, "
        f"PRIMARY KEY ({', '.join(columns)}))",
    )
    lines = pyreplica(config_file(tmp_path, databases), "install").stdout.splitlines()
    assert f"shop: public.wide: added, key ({', '.join(columns)})" in lines


def test_output_that_nobody_reads_is_no_failure_with_a_traceback(
    databases: Databases, tmp_path: Path
) -> None:
    path = config_file(tmp_path, databases)
    set_up_tables = ";".join(f"CREATE TABLE t{i} (id int PRIMARY KEY)" for i in range(30))
    execute(databases.master, set_up_tables)
    process = subprocess.Popen(
        [sys.executable, "-m", "pyreplica", "--config", str(path), "check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(LIMIT)


def test_every_command_ends_with_0_when_all_is_well(databases: Databases, tmp_path: Path) -> None:
    execute(databases.master, TABLES)
    path = config_file(tmp_path, databases)
    set_up(path)
    assert "shop: no problems found" in pyreplica(path, "check").stdout
    with daemon(path) as running:
        wait(path)
        eventually(lambda: pyreplica(path, "status", code=None).returncode == 0)
        pyreplica(path, "compare")
        assert running.stop() == 0
    pyreplica(path, "uninstall")
