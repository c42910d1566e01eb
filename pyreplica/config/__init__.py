"""The configuration: a YAML file, checked strictly, becomes frozen dataclasses."""

from pyreplica.config.file import Config, load, parse
from pyreplica.config.replication import CommitMode, ReplicationConfig
from pyreplica.config.yamltree import parse_duration, parse_size

__all__ = [
    "CommitMode",
    "Config",
    "ReplicationConfig",
    "load",
    "parse",
    "parse_duration",
    "parse_size",
]
