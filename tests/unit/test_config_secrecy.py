"""A configuration with a password in it is its owner's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyreplica.config import load
from pyreplica.errors import ConfigError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files have no such permissions")

ENVIRON = {"PW": "hunter2", "WHOLE": "host=db1 dbname=shop password=hunter2"}
SLAVE = "host=db2 dbname=shop"


def written(folder: Path, master: str, mode: int, rest: str = "") -> Path:
    """A configuration with that mode."""
    path = folder / "it's.yaml"
    path.write_text(f"replications:\n  shop:\n    slave: {SLAVE}\n    master: {master}\n{rest}")
    path.chmod(mode)
    return path


WITH_A_PASSWORD = [
    "host=db1 dbname=shop password=hunter2",
    "\"host=db1 dbname=shop password='two words'\"",
    "postgresql://me:hunter2@db1/shop",
    "postgresql://me@db1/shop?password=hunter2",
    "host=db1 dbname=shop sslpassword=hunter2",
    "host=db1 dbname=shop password=a${PW}",
    "host=db1 dbname=shop password=$${PW}",
]


@pytest.mark.parametrize("master", WITH_A_PASSWORD)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_with_a_password_that_others_can_read_is_refused(
    tmp_path: Path, master: str, mode: int
) -> None:
    path = written(tmp_path, master, mode)
    with pytest.raises(ConfigError) as refused:
        load(path, ENVIRON)
    assert refused.value.where == f"{path}:4"
    assert f"{mode:04o}" in refused.value.what
    assert "chmod 600 " in refused.value.hint
    assert "hunter2" not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize("master", WITH_A_PASSWORD)
def test_the_same_file_is_read_when_it_is_its_owners_alone(tmp_path: Path, master: str) -> None:
    assert load(written(tmp_path, master, 0o600), ENVIRON).replications


@pytest.mark.parametrize(
    "master",
    [
        "host=db1 dbname=shop",
        "host=db1 dbname=shop password=${PW}",
        "host=db1 dbname=shop password='${PW}'",
        "postgresql://me:${PW}@db1/shop",
        "host=db1 dbname=shop passfile=/etc/pyreplica/pass",
        "${WHOLE}",
    ],
)
def test_a_file_without_a_password_in_it_may_be_read_by_all(tmp_path: Path, master: str) -> None:
    assert load(written(tmp_path, master, 0o644), ENVIRON).replications


def test_the_password_of_a_mail_server_counts_as_well(tmp_path: Path) -> None:
    rest = (
        "alerts:\n  email:\n    to: [a@example.com]\n    from: b@example.com\n    host: mail\n"
        "    user: me\n    password: "
    )
    master = "host=db1 dbname=shop"
    with pytest.raises(ConfigError, match="there is a password"):
        load(written(tmp_path, master, 0o644, rest + "hunter2\n"), ENVIRON)
    assert load(written(tmp_path, master, 0o644, rest + "${PW}\n"), ENVIRON).alerts
