"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from pyreplica import __version__
from pyreplica.config.alerts import event_name
from pyreplica.daemon.web.board import Seen, View
from pyreplica.daemon.web.documents import word
from pyreplica.model import EventKind, State

_BY_REPLICATION = ("replication",)

_GAUGES: tuple[tuple[str, str, Callable[[Seen], float | None]], ...] = (
    (
        "pyreplica_lag_seconds",
        "How far the slave may be behind the master at most; 0 while it is in step.",
        lambda seen: seen.lag,
    ),
    (
        "pyreplica_in_step_timestamp_seconds",
        "When the slave was last seen to equal the master as of then.",
        lambda seen: seen.status.in_step_at.timestamp() if seen.status.in_step_at else None,
    ),
    (
        "pyreplica_failing",
        "Whether the last try has failed and nothing has been in step since.",
        lambda seen: float(seen.status.error is not None),
    ),
    (
        "pyreplica_log_kept_bytes",
        "How much log the master keeps for the slave, when it was last looked at.",
        lambda seen: seen.status.log_bytes,
    ),
    (
        "pyreplica_log_limit_used_ratio",
        "The part of max_log_size or max_log_age that is; past 1 the slave is dropped.",
        lambda seen: None if seen.status.log_percent is None else seen.status.log_percent / 100,
    ),
    (
        "pyreplica_conflicts_waiting",
        "Changes that could not be applied and wait.",
        lambda seen: seen.status.conflicts_waiting,
    ),
)
"""Name, help and value of what goes up and down; None is left out."""

_COUNTERS: tuple[tuple[str, str, Callable[[Seen], float]], ...] = (
    (
        "pyreplica_batches",
        "The batches that the slave has; the copy is one, too.",
        lambda seen: seen.status.batch,
    ),
    (
        "pyreplica_changes",
        "The changes that were applied on the slave since it was copied.",
        lambda seen: seen.status.changes,
    ),
)
"""The same of what only grows, until the slave is copied anew."""


class ReplicationCollector(Collector):
    """Makes the metrics anew for each reading.

    Args:
        view: gives what there is to tell.
    """

    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Give all metrics."""
        view = self._view()
        yield InfoMetricFamily("pyreplica_build", "The daemon.", value={"version": __version__})
        states = GaugeMetricFamily(
            "pyreplica_state",
            "1 for the state that the replication is in, 0 for the others.",
            labels=("replication", "state"),
        )
        for seen in view.replications:
            for state in State:
                states.add_metric(
                    (seen.status.replication, word(state)), float(state is seen.status.state)
                )
        yield states
        for name, text, value in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=_BY_REPLICATION)
            for seen in view.replications:
                known = value(seen)
                if known is not None:
                    gauge.add_metric((seen.status.replication,), known)
            yield gauge
        for name, text, number in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=_BY_REPLICATION)
            for seen in view.replications:
                if seen.status.batch:  # else it has not looked yet
                    counter.add_metric((seen.status.replication,), number(seen))
            yield counter
        events = CounterMetricFamily(
            "pyreplica_events",
            "What has happened since the daemon was started, by kind; see docs/alerts.md.",
            labels=("replication", "kind"),
        )
        for seen in view.replications:
            for kind in EventKind:
                name = seen.status.replication
                events.add_metric((name, event_name(kind)), view.counts.get((name, kind), 0))
        yield events


class Metrics:
    """The text of /metrics, in the form that the reader asks for.

    Args:
        view: gives what there is to tell.
    """

    def __init__(self, view: Callable[[], View]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(ReplicationCollector(view))

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics, and their content type.

        Args:
            accept: the reader's header of that name.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
