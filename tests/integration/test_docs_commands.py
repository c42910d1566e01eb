"""Every command that README.md and INSTALL.md show is executed, as it is written there.

systemd does not run where tests do: there a unit is enabled below a folder, and not started. What
it says of the units is in test_service_install.py. The roles are test_docs.py's.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pyreplica.config import load
from tests.conftest import Databases
from tests.integration.cli_support import (
    TABLES,
    execute,
    pair,
    rows,
    wait,
    write_config,
)
from tests.integration.test_docs import INSTALL, MASTER, ROOT, SLAVE, blocks, read, section
from tests.mailserver import certificates, mail_server
from tests.support import LIMIT, Daemon, eventually, set_up

README = ROOT / "README.md"
NEEDED = ["LICENSE", "README.md", "pyproject.toml", "pyreplica", "sql"]
"""What `pip install .` reads of a checkout."""
SECTIONS = [
    "What it needs",
    "Six commands",
    "Without superusers",
    "As a service of systemd",
    "In the background without systemd",
    "Alerts",
    "Upgrading",
    "Uninstalling",
]
"""Those of INSTALL.md that have commands; each is a test below, or the roles' in test_docs.py."""


def commands(text: str) -> list[str]:
    """The commands of the shell blocks; a here-document belongs to its command."""
    found: list[str] = []
    shown = blocks(text, "sh")
    for block in blocks(text, "console"):
        # with prompts there is output as well
        prompted = re.findall(r"^\$ (.+)$", block, re.MULTILINE)
        shown.append("\n".join(prompted) if prompted else block)
    for block in shown:
        lines = iter(block.splitlines())
        for line in lines:
            command = [line]
            if here := re.search(r"<<'(\w+)'$", line):
                for more in lines:
                    command.append(more)
                    if more == here[1]:
                        break
            found.append("\n".join(command))
    return found


class Terminal:
    """A folder for typing commands into.

    Args:
        folder: where they are executed.
        ours: what takes the place of words in them, as connection strings and folders.
    """

    def __init__(self, folder: Path, ours: dict[str, str]) -> None:
        self.folder = folder
        self._ours = ours

    def type(self, command: str) -> str:
        """Run a command, which must succeed; gives what it printed."""
        done = subprocess.run(
            ["bash", "-c", self._our(command)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=2 * LIMIT,
            check=False,
        )
        assert done.returncode == 0, command + done.stdout + done.stderr
        return done.stdout

    def start(self, command: str) -> Daemon:
        """Run a command that stays in the foreground."""
        (self.folder / "log").touch()
        command = f"cd {shlex.quote(str(self.folder))} && exec {self._our(command)}"
        return Daemon(["bash", "-c", command], self.folder / "log")

    def _our(self, command: str) -> str:
        for theirs, ours in self._ours.items():
            command = command.replace(theirs, ours)
        assert "example.com" not in command
        return command


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout where PyReplica was installed by the first two commands."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for command in commands(section(README, "Quick start"))[:2]:
        Terminal(folder, {}).type(command)
    return folder


@pytest.fixture
def terminal(checkout: Path, databases: Databases) -> Terminal:
    """The checkout, with the databases of the test."""
    return Terminal(checkout, {MASTER: databases.master, SLAVE: databases.slave})


def test_the_readme_and_install_md_show_the_same_six_commands() -> None:
    quick, six = (
        commands(section(README, "Quick start")),
        commands(section(INSTALL, "Six commands")),
    )
    assert quick[:6] == six[:6]
    assert quick[:2] == ["python3 -m venv .venv", ".venv/bin/pip install ."]


def test_no_command_is_left_out() -> None:
    text = read(INSTALL)
    assert sorted(commands(text)) == sorted(
        command for heading in SECTIONS for command in commands(section(INSTALL, heading))
    )
    first, *others = commands(read(README))
    assert first.startswith("make demo ")
    assert others[0].startswith("make test ")
    assert others[1:] == commands(section(README, "Quick start"))


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_does_what_the_readme_says(target: str) -> None:
    # the one is what runs this, the other what test_demo.py runs
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    program = {"demo": ".venv/bin/pyreplica demo", "test": ".venv/bin/pytest"}[target]
    assert program in done.stdout


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "Quick start"), ("INSTALL.md", "Six commands")]
)
def test_six_commands_replicate_two_databases(
    page: str, heading: str, terminal: Terminal, databases: Databases
) -> None:
    execute(databases.master, TABLES)
    first, later = (found := commands(section(ROOT / page, heading)))[2:6], found[6:]
    for command in first[:-1]:
        terminal.type(command)
    running = terminal.start(first[-1])
    configuration = terminal.folder / "shop.yaml"
    try:
        execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
        eventually(
            lambda: rows(databases.slave, "SELECT name FROM item WHERE id = 1000") == [("new",)]
        )
        wait(configuration)
        assert later
        for command in later:
            terminal.type(command)
    finally:
        assert running.stop() == 0
    if page == "INSTALL.md":
        for command in commands(section(INSTALL, "Upgrading")):
            terminal.type(command)
    (uninstall,) = commands(section(INSTALL, "Uninstalling"))
    terminal.type(uninstall)
    assert rows(databases.slave, "SELECT count(*) FROM item") == [(101,)]


def test_the_servers_can_be_prepared(databases: Databases) -> None:
    there = databases.slave_cluster
    for command in commands(section(INSTALL, "What it needs")):
        program, *arguments = shlex.split(command)
        if program == "apt-get":
            if shutil.which("apt-get"):  # whether there are such packages, without installing them
                subprocess.run(["apt-get", "--simulate", *arguments], check=True, timeout=LIMIT)
            continue
        assert (program, *arguments[:2]) == ("psql", "-d", "postgres")
        there.psql(*arguments[2:])
        name, _, setting = arguments[-1].removeprefix("ALTER SYSTEM SET ").split()
        found = there.psql(
            "-Atc",
            f"SELECT setting FROM pg_file_settings WHERE name = '{name}' ORDER BY seqno DESC",
        ).stdout
        there.psql("-c", f"ALTER SYSTEM RESET {name}")
        assert found.splitlines()[0] == setting


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs systemd's tools")
def test_a_service_is_installed_and_enabled(checkout: Path, tmp_path: Path) -> None:
    settings = {"master": "dbname=a", "slave": "dbname=b"}
    write_config(checkout / "shop.yaml", {"shop": settings})
    ours = {
        "/opt/pyreplica": f"{checkout}/.venv",
        "/etc/pyreplica": f"{tmp_path}/etc/pyreplica",
        "-o pyreplica ": "",  # with --root no user is made
        "service install": f"service install --root {tmp_path}",
        "systemctl enable --now": f"systemctl --root={tmp_path} enable",
    }
    terminal = Terminal(checkout, ours)
    for command in commands(section(INSTALL, "As a service of systemd")):
        terminal.type(command)
    written = tmp_path / "etc" / "pyreplica" / "pyreplica.yaml"
    assert written.stat().st_mode & 0o777 == 0o600
    assert load(written).replications.keys() == {"shop"}
    units = tmp_path / "etc" / "systemd" / "system"
    enabled = {it.name: it.readlink().name for it in units.glob("*.wants/*")}
    assert enabled == {
        "pyreplica.service": "pyreplica.service",
        "pyreplica@shop.service": "pyreplica@.service",
    }


def test_the_daemon_runs_in_the_background(
    checkout: Path, databases: Databases, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "shop.yaml", {"shop": pair(databases)})
    execute(databases.master, TABLES)
    set_up(path)
    ours = {
        "/etc/pyreplica": str(tmp_path),
        "/var/log/pyreplica": str(tmp_path),
        "pyreplica --config": f"{checkout}/.venv/bin/pyreplica --config",
    }
    terminal = Terminal(tmp_path, ours)
    start, reload, stop = commands(section(INSTALL, "In the background without systemd"))
    pidfile = f" --pidfile {tmp_path / 'shop.pid'}"  # the default one is for the whole machine
    terminal.type(start + pidfile)
    try:
        execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
        wait(path)
        assert "1 as before" in terminal.type(reload + pidfile)
    finally:
        terminal.type(stop + pidfile)
    assert rows(databases.slave, "SELECT count(*) FROM item") == [(101,)]
    assert "stopped" in (tmp_path / "shop.log").read_text(encoding="utf-8")


def test_an_alert_is_mailed(
    checkout: Path, databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = section(INSTALL, "Alerts")
    (shown,) = blocks(text, "yaml")
    made = certificates(tmp_path)
    with mail_server(starttls=made.server, login=("pyreplica", "secret")) as server:
        alerts = yaml.safe_load(shown)["alerts"]
        ours = {"host": "localhost", "port": server.port, "ca_file": str(made.ca_file)}
        alerts["email"].update(ours)
        path = write_config(tmp_path / "shop.yaml", {"shop": pair(databases)}, alerts=alerts)
        monkeypatch.setenv("MAIL_PASSWORD", "secret")
        monkeypatch.setenv("PYREPLICA_CONFIG", str(path))
        program = {"pyreplica alert": f"{checkout}/.venv/bin/pyreplica alert"}
        for command in commands(text):
            assert "dba@example.com" in Terminal(tmp_path, program).type(command)
        (mail,) = server.until(1)
        assert mail["To"] == "dba@example.com"
