"""The page, made as a whole for each reading; its script only takes the place of the reload key."""

from __future__ import annotations

from datetime import datetime
from html import escape

from pyreplica import __version__
from pyreplica.daemon.web.board import Seen, View
from pyreplica.daemon.web.charts import area
from pyreplica.daemon.web.documents import word
from pyreplica.model import Event, EventKind, State
from pyreplica.replication.limits import sized

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="icon.svg">
<link rel="stylesheet" href="page.css">
<script src="page.js" defer></script>
<noscript><meta http-equiv="refresh" content="30"></noscript>
</head>
<body>
<header><h1>PyReplica</h1><p id="alive" role="status"></p></header>
<main id="live">
{content}
</main>
<footer><p>PyReplica {version}. For programs: <a href="status.json">status.json</a>,
<a href="healthz">healthz</a>, <a href="metrics">metrics</a>.</p></footer>
</body>
</html>
"""

_LOOKS = {
    State.WAITING: ("good", "✓"),
    State.CATCHING_UP: ("busy", "↻"),
    State.CONNECTING: ("busy", "…"),
    State.PAUSED: ("rest", "Ⅱ"),
    State.STANDBY: ("rest", "◦"),
    State.STOPPED: ("bad", "■"),
    State.FAILED: ("bad", "✕"),
}
"""The class and the sign of a state; the word is always there as well."""

_GOOD = (EventKind.STARTED, EventKind.RECOVERED, EventKind.RESUMED)
_BAD = (EventKind.ERROR, EventKind.DROPPED)
_REST = (EventKind.STOPPED, EventKind.PAUSED)


def page(view: View) -> bytes:
    """The page, in UTF-8."""
    unwell = sum(_LOOKS[seen.status.state][0] == "bad" for seen in view.replications)
    title = f"PyReplica: {unwell} failing" if unwell else "PyReplica"
    content = "\n".join(
        [
            f'<p class="at">As of {_time(view.at)}</p>',
            _overview(view),
            *(_replication(seen) for seen in view.replications),
            _events(view),
        ]
    )
    return _PAGE.format(title=title, content=content, version=escape(__version__)).encode()


def _overview(view: View) -> str:
    if not view.replications:
        return "<p>No replication has been started yet.</p>"
    rows = "\n".join(
        f'<tr><th scope="row"><a href="#of-{escape(seen.status.replication)}">'
        f"{escape(seen.status.replication)}</a></th>"
        f"<td>{_state(seen.status.state)}</td>"
        f'<td class="number">{_seconds(seen.lag)}</td>'
        f'<td class="number">{_rate(seen.rate)}</td>'
        f'<td class="number">{_log(seen, "({} %)")}</td></tr>'
        for seen in view.replications
    )
    return (
        "<h2>Replications</h2>\n<table>\n<thead><tr>"
        '<th scope="col">Name</th><th scope="col">State</th>'
        '<th scope="col" class="number">Lag</th>'
        '<th scope="col" class="number">Changes<wbr>/s</th>'
        '<th scope="col" class="number">Log kept</th>'
        f"</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    )


def _replication(seen: Seen) -> str:
    status = seen.status
    facts = [
        ("Since", _time(status.since)),
        ("Lag", _seconds(seen.lag)),
        ("In step", "now" if status.state is State.WAITING else _time(status.in_step_at)),
        ("Batch", f"{status.batch:,}"),
        ("Changes applied", f"{status.changes:,}"),
        ("Log kept", _log(seen, "({} % of its limit)")),
        (
            "Conflicts waiting",
            "-" if status.conflicts_waiting is None else f"{status.conflicts_waiting:,}",
        ),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    note = f'<p class="note">{escape(status.note)}</p>' if status.note else ""
    return (
        f'<section id="of-{escape(status.replication)}">\n'
        f"<h2>{escape(status.replication)} {_state(status.state)}</h2>\n{note}{_error(seen)}"
        f"<dl>{listed}</dl>\n"
        f'<div class="charts">{_lag_chart(seen)}{_rate_chart(seen)}</div>\n</section>'
    )


def _error(seen: Seen) -> str:
    status = seen.status
    if status.error is None:
        return ""
    hint = f'<p class="hint">{escape(status.hint)}</p>' if status.hint else ""
    since = f", since {_time(status.error_since)}" if status.error_since else ""
    return (
        f'<div class="error"><p><strong>Last error{since}:</strong> {escape(status.error)}</p>'
        f"{hint}</div>\n"
    )


def _lag_chart(seen: Seen) -> str:
    highest = max((lag for lag in seen.lags if lag is not None), default=None)
    return _figure(
        "Lag", f"{_seconds(seen.lag)} now, {_seconds(highest)} at most", seen.lags, "lag"
    )


def _rate_chart(seen: Seen) -> str:
    highest = max((rate for rate in seen.rates if rate is not None), default=0.0)
    said = f"{_rate(seen.rate)} now, {_rate(highest)} at most"
    return _figure("Changes a second", said, seen.rates, "rate")


def _figure(name: str, said: str, values: tuple[float | None, ...], kind: str) -> str:
    chart = area(values, kind, f"{name} over the last hour: {said}")
    return (
        f"<figure><figcaption>{name}: {said}</figcaption>{chart}"
        '<p class="axis"><span>an hour ago</span><span>now</span></p></figure>'
    )


def _events(view: View) -> str:
    if not view.events:
        return '<section id="events"><h2>Events</h2><p>None yet.</p></section>'
    rows = "\n".join(_event(event) for event in view.events)
    return (
        '<section id="events"><h2>Events</h2>\n<table class="events">\n<thead><tr>'
        '<th scope="col">When</th><th scope="col">What</th><th scope="col">Told</th>'
        f"</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></section>"
    )


def _event(event: Event) -> str:
    look = (
        "good"
        if event.kind in _GOOD or event.over
        else "bad"
        if event.kind in _BAD
        else "rest"
        if event.kind in _REST
        else "busy"
    )
    kind = f"{event.kind.value}, over" if event.over else event.kind.value
    hint = f' <span class="hint">{escape(event.hint)}</span>' if event.hint else ""
    return (
        f'<tr><td>{_time(event.at)}</td><td><span class="state {look}">{escape(kind)}</span></td>'
        f"<td>{escape(event.what)}{hint}</td></tr>"
    )


def _state(state: State) -> str:
    look, sign = _LOOKS[state]
    return f'<span class="state {look}"><span aria-hidden="true">{sign}</span> {word(state)}</span>'


def _log(seen: Seen, of_limit: str) -> str:
    status = seen.status
    if status.log_bytes is None:
        return "-"
    used = "" if status.log_percent is None else f" {of_limit.format(status.log_percent)}"
    return f"{sized(status.log_bytes)}{used}"


def _time(at: datetime | None) -> str:
    """A moment in the time zone of the daemon's machine."""
    if at is None:
        return "-"
    local = at.astimezone()
    return (
        f'<time datetime="{at.isoformat(timespec="seconds")}">{local:%Y-%m-%d %H:%M:%S %Z}</time>'
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return "not known"
    if value < 120:
        return "0 s" if not value else f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"
