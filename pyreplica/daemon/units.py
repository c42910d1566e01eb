"""The files that make systemd run the daemon, as they are installed on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pyreplica.errors import ConfigError, PyReplicaError

USER = "pyreplica"
_COMMAND = "/usr/bin/pyreplica"
_UNITS = "etc/systemd/system"
_SYSUSERS = "etc/sysusers.d"
_PLAIN = re.compile(r"/[\w./+-]*")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")

BACKOFF_SINCE = 254
"""The first version of systemd that lets the time before a restart grow."""
_BACKOFF = "RestartSteps=6\nRestartMaxDelaySec=5min\n"


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written: its path below the root, and its text."""

    path: Path
    text: str


def files(*, user: str = USER, instance: bool = False, version: int | None = None) -> list[File]:
    """What there is to be written.

    Args:
        user: the user that the daemon runs as.
        instance: the template, one daemon for each configuration, instead of the one service.
        version: systemd's; None where it is not known.

    Raises:
        ConfigError: that is no name of a user.
        PyReplicaError: this program is in a folder that no unit can name.
    """
    if not _USER.fullmatch(user):
        raise ConfigError(f"{user!r} is no name for a user", hint="Such as --user pyreplica.")
    name = "pyreplica@.service" if instance else "pyreplica.service"
    text = _contrib(name).replace(_COMMAND, command())
    text = text.replace("User=pyreplica\nGroup=pyreplica\n", f"User={user}\nGroup={user}\n")
    if version is not None and version >= BACKOFF_SINCE:
        text = text.replace("RestartSec=5s\n", f"RestartSec=5s\n{_BACKOFF}")
    sysusers = _contrib("pyreplica.sysusers").replace("u pyreplica ", f"u {user} ")
    return [File(Path(_UNITS, name), text), File(Path(_SYSUSERS, f"{user}.conf"), sysusers)]


def write(files: list[File], root: Path) -> None:
    """Write them below a folder.

    Raises:
        PyReplicaError: one cannot be written.
    """
    for file in files:
        path = root / file.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
            path.chmod(0o644)
        except OSError as error:
            raise PyReplicaError(
                f"cannot be written: {error.strerror}", where=str(path), hint="Do it as root."
            ) from error


def command() -> str:
    """How a unit runs this program: by its script, or by the interpreter."""
    script = Path(sys.argv[0]).absolute()
    beside = Path(sys.executable).with_name("pyreplica")
    for path in (script, beside):
        if path.name == "pyreplica" and path.is_file() and _PLAIN.fullmatch(str(path)):
            return str(path)
    if not _PLAIN.fullmatch(sys.executable):
        raise PyReplicaError(
            "the path of this program has characters that a unit cannot hold as they are",
            where=sys.executable,
            hint="Install PyReplica elsewhere, such as in /opt/pyreplica.",
        )
    return f"{sys.executable} -m pyreplica"


def version() -> int | None:
    """Systemd's version on this machine; None when there is none."""
    program = shutil.which("systemctl")
    if program is None:
        return None
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"systemd (\d+)", said.stdout)
    return int(found[1]) if found else None


def take_up() -> list[str]:
    """Have systemd make the user and read the units; gives what could not be done."""
    problems = []
    for words in (["systemd-sysusers"], ["systemctl", "daemon-reload"]):
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            problems.append(f"{' '.join(words)}: {error}")
            continue
        if done.returncode:
            problems.append(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return problems


def _contrib(name: str) -> str:
    return (resources.files("pyreplica") / "contrib" / name).read_text(encoding="utf-8")
