"""``pyreplica check-lag``: a plugin for Nagios and everything that understands its plugins.

One line on standard output with what is wrong and the figures, and the exit code says how bad it
is ("Monitoring Plugins Development Guidelines").
"""

from __future__ import annotations

import argparse
import enum
import re

from pyreplica.cli.common import Commands, chosen, duration
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import seconds
from pyreplica.errors import ConfigError, PyReplicaError
from pyreplica.replication.report import Report, look_at

TIMEOUT = "10s"
"""How long both servers are waited for, unless told otherwise; most schedulers give up later."""


class Level(enum.IntEnum):
    """How bad it is; the plugin's exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_RANK = (Level.OK, Level.UNKNOWN, Level.WARNING, Level.CRITICAL)
"""The worst one comes last; of several replications it counts."""

_LEAST = {
    "in step": Level.OK,
    "catching up": Level.OK,
    "adding": Level.OK,
    "incomplete": Level.WARNING,
    "failing": Level.WARNING,
    "copying": Level.WARNING,
    "unreachable": Level.UNKNOWN,
}
"""What a state is by itself, whatever the lag. Those that are not here should run, and do not."""
_PAUSED = frozenset({"pausing", "paused"})
"""Somebody wants it so: a warning, whatever the lag."""


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "check-lag",
        run,
        "check the lag as a plugin of Nagios does: one line, exit code 0, 1, 2 or 3",
        "pyreplica --config shop.yaml check-lag --warning 10s --critical 1m shop",
    )
    # read in run(): a mistake in them is UNKNOWN, where argparse's own exit code says CRITICAL
    for name, default in (("warning", "10s"), ("critical", "1m")):
        made.add_argument(
            f"--{name}",
            default=default,
            metavar="S",
            help=f"a lag from here on is {name}: seconds, or 500ms, 10s, 1m (default: %(default)s)",
        )
    made.add_argument(
        "--timeout",
        default=TIMEOUT,
        metavar="S",
        help="how long to wait for the servers (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    try:
        warning = _seconds("--warning", arguments.warning)
        critical = _seconds("--critical", arguments.critical)
        timeout = _seconds("--timeout", arguments.timeout)
        if warning > critical:
            raise ConfigError(f"--warning ({warning:g} s) is more than --critical ({critical:g} s)")
        configs = chosen(arguments)
    except PyReplicaError as error:
        hint = f" ({error.hint})" if error.hint else ""
        print(f"PYREPLICA UNKNOWN - {_plain(error.line + hint)}")
        return Level.UNKNOWN
    reports = look_at(configs, timeout)
    levels = [judged(one, warning, critical) for one in reports]
    worst = max(levels, key=_RANK.index)
    # the worst first: pagers cut the line
    told = sorted(zip(levels, reports, strict=True), key=lambda both: -_RANK.index(both[0]))
    what = "; ".join(_line(one) for _, one in told)
    figures = " ".join(_figures(one, warning, critical) for one in reports)
    print(f"PYREPLICA {worst.name} - {_plain(what)} | {figures}")
    return int(worst)


def judged(report: Report, warning: float, critical: float) -> Level:
    """How bad it is.

    Args:
        warning, critical: the lags from which on it is that, seconds.
    """
    if report.state in _PAUSED:
        return Level.WARNING
    least = _LEAST.get(report.state, Level.CRITICAL)
    lag = lag_of(report)
    by_lag = Level.OK
    if lag is not None:
        by_lag = (
            Level.CRITICAL if lag >= critical else Level.WARNING if lag >= warning else Level.OK
        )
    return max(least, by_lag, key=_RANK.index)


def lag_of(report: Report) -> float | None:
    """The lag, seconds; while the slave cannot be asked, as the master alone knows it."""
    return report.log_age_seconds if report.lag_seconds is None else report.lag_seconds


def _line(report: Report) -> str:
    lag = lag_of(report)
    said = f"{report.replication} {report.state}"
    if lag is not None:
        said += f", lag {seconds(lag)}"
    if report.paused_by:
        said += f", by {report.paused_by}"
        if report.pause_reason:
            said += f": {report.pause_reason}"
    elif report.error and _LEAST.get(report.state) is not Level.OK:
        said += f", {report.error}"
    return said


def _figures(report: Report, warning: float, critical: float) -> str:
    """The performance data; a value that is not known is U, as the guidelines have it."""
    name, lag = report.replication, lag_of(report)
    figures = [f"{name}_lag={_number(lag)}{'' if lag is None else 's'};{warning:g};{critical:g};0"]
    if report.lag_changes is not None:
        figures.append(f"{name}_changes={report.lag_changes};;;0")
    if report.log_bytes is not None:
        figures.append(f"{name}_log={report.log_bytes}B;;;0")
    return " ".join(figures)


def _number(value: float | None) -> str:
    return "U" if value is None else f"{value:.3f}"


def _plain(text: str) -> str:
    """On one line, and without the sign that begins the figures."""
    return " ".join(text.split()).replace("|", "/")


def _seconds(option: str, text: str) -> float:
    """A duration; m is minutes as well, as everywhere in monitoring."""
    try:
        return duration(re.sub(r"(?<=[0-9])\s*m$", "min", text.strip()))
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"{option}: {error}") from None
