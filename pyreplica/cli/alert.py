"""``pyreplica alert test``: sends a mail and runs the command, to see that they work."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone

from pyreplica import config
from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, error_console
from pyreplica.config.alerts import AlertsConfig, Security, event_name
from pyreplica.daemon.alerts import command, texts
from pyreplica.daemon.alerts.holding import Notice, problem_of
from pyreplica.daemon.alerts.ways import Mailing
from pyreplica.errors import ConfigError, PyReplicaError
from pyreplica.model import Event, EventKind

KINDS = {event_name(kind): kind for kind in EventKind}


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "alert",
        run,
        "send a test by email and by the command of `alerts:`, and say what became of it",
        "pyreplica --config shop.yaml alert test",
        names=None,
    )
    made.add_argument("action", metavar="test", choices=("test",), help="what to do")
    made.add_argument(
        "--event",
        choices=tuple(KINDS),
        default="error",
        help="the kind of event that the test looks like (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it; exit code 1 when one of the ways does not work."""
    loaded = config.load(arguments.config)
    settings = loaded.alerts
    if settings is None:
        raise ConfigError(
            "has no alerts",
            where=loaded.source,
            hint="docs/alerts.md shows what to write there.",
        )
    kind = KINDS[arguments.event]
    if kind not in settings.events:
        console().print(f"note: {arguments.event} is not among `events:`, and sent as a test only")
    notice = _sample(kind)
    worked = True
    for what, way in (("email", _mail), ("command", _command)):
        try:
            said = way(settings, notice)
        except PyReplicaError as error:
            worked = False
            error_console().print(f"{what}: failed: {error.line}", style="bold red")
            if error.hint:
                error_console().print(f"  hint: {error.hint}")
        else:
            for line in said:
                console().print(f"{what}: {line}")
    return 0 if worked else 1


def _sample(kind: EventKind) -> Notice:
    """An event of this kind that has not happened."""
    event = Event(
        kind,
        "",
        datetime.now(timezone.utc),
        f"this is a test by `pyreplica alert test --event {event_name(kind)}`, nothing is wrong",
        hint="Nothing has to be done.",
    )
    return Notice(event, problem_of(event))


def _mail(settings: AlertsConfig, notice: Notice) -> list[str]:
    """Send a mail; gives what is to be said of that."""
    if settings.email is None:
        return []
    way = Mailing(settings.email, lambda name: [])
    post = way.post([notice])
    sent = way.send(post)
    if sent.refused:
        some = f"sent to {', '.join(sent.accepted)}, but " if sent.accepted else ""
        why = "; ".join(f"{to}: {answer}" for to, answer in sent.refused.items())
        raise PyReplicaError(
            f"{some}not accepted for {why}",
            where=f"mail server {sent.server}",
            hint="See `to` in alerts.email of the configuration.",
        )
    how = "without TLS"
    if settings.email.security is not Security.NONE:
        how = f"{sent.tls}, certificate verified"
    login = f"logged in as {sent.user}" if sent.user else "without a login"
    return [
        f"sent to {', '.join(sent.accepted)}",
        f"by {sent.server} ({how}, {login})",
        f"subject: {post.letter.subject}",
    ]


def _command(settings: AlertsConfig, notice: Notice) -> list[str]:
    """Run the command; gives what is to be said of that."""
    if settings.command is None:
        return []
    given = texts.payload(notice, lambda name: [], texts.this_host(), test=True)
    printed = command.run(settings.command, given, settings.command_timeout)
    return [
        f"{settings.command[0]} has ended with exit code 0",
        *(f"it has printed: {line}" for line in printed.splitlines()),
    ]
