"""`pyreplica service install`: what systemd says of the units."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyreplica.daemon import units
from tests.integration.cli_support import refused
from tests.support import LIMIT, pyreplica

WORST = 2.0
"""The exposure that `systemd-analyze security` may give at the most; 10 is the worst there is."""

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd's tools"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=LIMIT, check=False
    )


def installed(folder: Path, *options: str) -> Path:
    """Put a unit below the folder; gives it."""
    pyreplica(Path("none.yaml"), "service", "install", "--root", str(folder), *options)
    (unit,) = (folder / "etc/systemd/system").iterdir()
    return unit


@pytest.mark.parametrize("options", [(), ("--instance",)], ids=["service", "template"])
def test_systemd_has_nothing_to_say_against_the_unit_and_little_is_exposed(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    unit = installed(tmp_path, *options)
    assert unit.name == ("pyreplica@.service" if options else "pyreplica.service")
    verified = analyze("verify", "--man=no", str(unit))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    said = analyze("security", "--offline=true", "--no-pager", str(unit)).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    assert float(found[1]) <= WORST
    install = " ".join(Path("INSTALL.md").read_text(encoding="utf-8").split())
    documented = re.search(r"exposure level is ([\d.]+), of 10, with systemd (\d+);", install)
    assert documented
    # other versions look at other things
    assert units.version() != int(documented[2]) or found[1] == documented[1]


def test_the_unit_runs_this_program_as_the_user_that_is_named(tmp_path: Path) -> None:
    unit = installed(tmp_path, "--user", "replicator").read_text(encoding="utf-8")
    assert "User=replicator\nGroup=replicator\n" in unit
    assert f"ExecStart={units.command()} --config /etc/pyreplica/pyreplica.yaml run " in unit
    assert "/usr/bin/pyreplica" not in unit
    users = tmp_path / "etc/sysusers.d/replicator.conf"
    assert re.search(r"^u replicator - ", users.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_time_before_a_restart_grows_where_systemd_can_do_that() -> None:
    def unit(version: int | None) -> str:
        return units.files(version=version)[0].text

    assert "RestartSteps=6\nRestartMaxDelaySec=5min\n" in unit(254)
    assert "RestartSteps" not in unit(253) + unit(None)


def test_a_dry_run_prints_the_files_and_writes_none(tmp_path: Path) -> None:
    config = tmp_path / "none.yaml"
    said = pyreplica(config, "service", "install", "--dry-run", "--root", str(tmp_path)).stdout
    assert "# /etc/systemd/system/pyreplica.service\n" in said
    assert "Type=notify" in said
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_user_or_folder_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "none.yaml"
    wrong = ("service", "install", "--root", str(tmp_path), "--user", "me\nExecStart=/bin/sh")
    refused(config, *wrong, code=2, says="is no name for a user")
    (tmp_path / "etc").write_text("a file")
    refused(config, *wrong[:4], says="cannot be written", hint="Do it as root.")
