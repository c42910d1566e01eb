"""Alerts: what happens to the replications is told by email and by a command (docs/alerts.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pyreplica.config import Config
from pyreplica.config.alerts import AlertsConfig
from pyreplica.daemon.alerts.channel import Channel
from pyreplica.daemon.alerts.holding import Holder
from pyreplica.daemon.alerts.recent import RecentLines
from pyreplica.daemon.alerts.ways import Mailing, Running
from pyreplica.model import Event, Status

PATIENCE = 5.0
"""Seconds that the daemon's end may be held up by alerts that are still to be delivered."""


class Alerts:
    """A listener (daemon/listener.py) that tells of events as ``alerts:`` says.

    Without that section it does nothing, until the configuration is read anew.

    Args:
        config: the configuration.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._recent = RecentLines()
        self._channels: Mapping[str, Channel[Any]] = {}

    def start(self) -> None:
        """Begin."""
        self.reload(self._config)

    def status(self, status: Status) -> None:
        """Nothing: whatever somebody is told of is an event."""

    def event(self, event: Event) -> None:
        """Tell of it."""
        for channel in self._channels.values():
            channel.put(event)

    def reload(self, config: Config) -> None:
        """Go on by another configuration; what is to be delivered already goes where that says."""
        self._config, settings = config, config.alerts
        if settings is None:
            self._recent.detach()
        else:
            self._recent.attach()
            self._recent.forget_others(set(config.replications))
        channels: dict[str, Channel[Any]] = {}
        for what, make in self._ways(settings).items():
            channel = self._channels.get(what)
            if channel is None:
                channel = make()
                channel.start()
            channels[what] = channel
        before, self._channels = self._channels, channels
        for what, channel in before.items():
            if what not in channels:
                channel.end()
            elif settings is not None:
                channel.configure(settings)

    def stop(self) -> None:
        """Deliver what is left, for some seconds at most."""
        for channel in self._channels.values():
            channel.end()
        deadline = time.monotonic() + PATIENCE
        for channel in self._channels.values():
            channel.join(deadline - time.monotonic())
        self._recent.detach()

    def _ways(self, settings: AlertsConfig | None) -> dict[str, Callable[[], Channel[Any]]]:
        """How a channel is made for each way that the configuration has."""
        made: dict[str, Callable[[], Channel[Any]]] = {}
        if settings is not None and (email := settings.email) is not None:
            made["email"] = lambda: Channel(Mailing(email, self._recent.of), _holder(settings))
        if settings is not None and settings.command is not None:
            made["command"] = lambda: Channel(Running(settings, self._recent.of), _holder(settings))
        return made


def _holder(settings: AlertsConfig) -> Holder:
    return Holder(settings.events, settings.repeat)
