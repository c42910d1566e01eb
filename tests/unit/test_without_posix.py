"""Everything but daemonising works where there is no POSIX, as on Windows."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pyreplica

POSIX_ONLY = {"pyreplica.daemon.background", "pyreplica.daemon.pidfile"}
"""What needs it: the daemon in the background."""

_PROGRAM = """
import importlib, os, select, signal, socket, sys

for name in ("daemon", "fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for module, names in {
    os: ("fork", "getuid", "geteuid", "getgid", "setsid", "getpgid", "killpg", "chown", "uname"),
    select: ("poll", "epoll", "kqueue"),
    signal: (
        "SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGQUIT", "SIGPIPE",
        "SIGTSTP", "SIGCONT", "SIGSTOP", "alarm", "pause", "setitimer", "pthread_sigmask",
    ),
    socket: ("AF_UNIX", "SO_PEERCRED", "TCP_USER_TIMEOUT", "TCP_INFO"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed.append(f"{name}: {type(error).__name__}: {error}")
print("\\n".join(failed))
"""


def modules() -> list[str]:
    """All modules of the package but the one that runs it."""
    found = pkgutil.walk_packages(pyreplica.__path__, "pyreplica.")
    return [one.name for one in found if one.name != "pyreplica.__main__"]


def imported(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_all_but_daemonising_is_imported_where_there_is_no_posix() -> None:
    done = imported(_PROGRAM, *modules())
    assert done.returncode == 0, done.stderr
    failed = {line.partition(":")[0] for line in done.stdout.splitlines() if line}
    assert failed == POSIX_ONLY, done.stdout


def test_the_command_line_says_that_the_background_needs_posix() -> None:
    program = (
        f"{_PROGRAM}\n"
        "from pyreplica.cli.main import main\n"
        "sys.exit(main(['--config', 'x.yaml', 'stop', '--pidfile', 'x.pid']))"
    )
    done = imported(program)
    assert done.returncode == 1
    assert "this system cannot do that: there is no daemon" in done.stderr
    assert "Traceback" not in done.stderr
