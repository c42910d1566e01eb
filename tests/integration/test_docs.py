"""The documentation is true: its commands run, its links lead somewhere, its words are ours."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from pyreplica import errors
from pyreplica.cli import main
from pyreplica.config import Config, ReplicationConfig
from pyreplica.replication.compare import TableResult
from pyreplica.replication.repair import RepairState, TableRepair
from pyreplica.replication.report import RUNNING, Report
from tests.conftest import Databases
from tests.integration.cli_support import (
    TABLES,
    execute,
    refused,
    rows,
    wait,
    write_config,
)
from tests.support import config_file, daemon, pyreplica, set_up

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
INSTALL = ROOT / "INSTALL.md"
COMMANDS = ROOT / "docs" / "commands.md"

MASTER = "host=db1.example.com dbname=shop user=postgres"
SLAVE = "host=db2.example.com dbname=shop user=postgres"
"""The connection strings of the quick start."""


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def section(page: Path, heading: str) -> str:
    """The text under a heading, with what is under its smaller headings."""
    found: list[str] = []
    level, in_code = 0, False
    for line in read(page).splitlines(keepends=True):
        in_code ^= line.startswith("```")
        marks = "" if in_code else re.match("#*", line)[0]  # type: ignore[index]
        if level and marks and len(marks) <= level:
            break
        if level:
            found.append(line)
        elif line.lstrip("#").strip() == heading:
            level = len(marks)
    assert found, f"{page.name} has no heading {heading}"
    return "".join(found)


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# Links

WITHOUT_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page make."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", WITHOUT_CODE.sub("", read(page))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md|\w+\.md)\)", read(ROOT / "README.md")))
    assert {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"} <= linked


# Commands and options


def written_commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every call of pyreplica in code blocks and in code within lines."""
    text = read(page)
    code = [
        line
        for block in re.findall(r"^```.*?\n(.*?)^```$", text, re.M | re.S)
        for line in block.splitlines()
    ]
    code += re.findall(r"^    (.+)$", text, re.MULTILINE)
    code += [
        " ".join(span.split())
        for span in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    ]
    for line in code:
        call = re.match(r"(?:\$ |ExecStart=)?(?:\S+/)?pyreplica (?P<arguments>[a-z-].*)", line)
        if call:
            yield shlex.split(call["arguments"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_written_somewhere_exists(page: Path) -> None:
    for arguments in written_commands(page):
        if {"--help", "--version"} & set(arguments):
            continue
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                main.parser().parse_args(arguments)
            except SystemExit:
                pytest.fail(f"pyreplica {shlex.join(arguments)}: {said.getvalue()}")


def test_the_commands_that_are_looked_for_are_found() -> None:
    assert sum(len(list(written_commands(page))) for page in PAGES) > 30


def test_commands_md_describes_each_command_with_all_its_options() -> None:
    text = read(COMMANDS)
    names = list(main.COMMANDS)
    assert re.findall(r"^## ([\w-]+)$", text, re.MULTILINE) == names
    for name in names:
        with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
            main.parser().parse_args([name, "--help"])
        options = set(re.findall(r"--[a-z]+", shown.getvalue().split("example:")[0])) - {"--help"}
        about = section(COMMANDS, name).split("\n\n", 1)[1]
        assert set(re.findall(r"--[a-z]+(?!.*pg_dump)", about)) - {"--config"} == options, name


def test_commands_md_has_every_exit_code() -> None:
    documented = set(re.findall(r"^\| (\d+) \|", read(COMMANDS), re.MULTILINE))
    classes = [v for v in vars(errors).values() if isinstance(v, type)]
    used = {c.exit_code for c in classes if issubclass(c, errors.PyReplicaError)}
    assert documented == {str(code) for code in used | {0, 130}}
    assert re.findall(r"(\d+) [a-z]", (main.__doc__ or "").replace("\n", " ")) == sorted(
        documented, key=int
    )


def keys_of(command: str, first: str) -> list[str]:
    """The first column of the table that begins with a key."""
    found = re.findall(r"^\| `([^`]+)` \|", section(COMMANDS, command), re.MULTILINE)
    return found[found.index(first) :]


def test_commands_md_has_every_key_of_the_json() -> None:
    assert keys_of("status", "replication") == [field.name for field in fields(Report)]
    assert keys_of("compare", "table") == [*(field.name for field in fields(TableResult)), "equal"]
    keys = [field.name for field in fields(TableRepair)]
    assert keys_of("repair", "table") == [*keys, *get_args(RepairState)]


def test_commands_md_has_every_state() -> None:
    found = re.findall(r"^\| `([^`]+)` \|", section(COMMANDS, "status"), re.MULTILINE)
    states = set(found[: found.index("replication")])
    assert states == set(re.findall(r'"([a-z ]+)"', (Report.__doc__ or "").split("lag_seconds")[0]))
    assert states > RUNNING


def test_configuration_md_has_every_key_with_its_default() -> None:
    text = read(ROOT / "docs" / "configuration.md")
    settings = [field.name for field in fields(ReplicationConfig) if field.name != "name"]
    described = re.findall(r"^### `(\w+)`$", text, re.MULTILINE)
    root = {field.name for field in fields(Config)} - {"source"} | {"defaults"}
    assert set(described) == {*settings, *root}


def test_architecture_md_has_every_table_of_both_sides(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES)
    set_up(config_file(tmp_path, databases))
    listed = section(ROOT / "docs" / "architecture.md", "The parts")
    master, slave = re.split(r"^\| on the slave", listed, flags=re.MULTILINE)
    there = "SELECT relname FROM pg_class WHERE relnamespace = 'pyreplica'::regnamespace "
    there += "AND relkind IN ('r', 'p', 'v', 'S') AND NOT relispartition"
    for side, dsn in ((master, databases.master), (slave, databases.slave)):
        found = {re.sub(r"_\d+$", "_N", name) for (name,) in rows(dsn, there)}
        # what PostgreSQL and PyReplica need only inside
        inside = ("_id_seq", "_log_id", "_trigger", "_function")
        found = {name for name in found if not name.endswith(inside)}
        described = re.findall(r"^\| (`.+?) \|", side, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", " ".join(described))) == found


# Messages

FROM_POSTGRESQL = {
    "cannot PREPARE a transaction that has executed LISTEN, UNLISTEN, or NOTIFY",
    "must be owner of table <name>",
    "permission denied for schema pyreplica",
    "permission denied for table <name>",
    'permission denied to set parameter "session_replication_role"',
    "too many notifications in the NOTIFY queue",
    "total size of jsonb object elements exceeds the maximum of 268435455 bytes",
}
ANY = "\0"


def messages_of_python(source: str) -> Iterator[str]:
    """The texts of a module, with a mark where a value goes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sd]|%\.\d[fg]", ANY, node.value)
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else ANY for part in node.values
            )
        elif isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant):
            yield f"{node.left.value!s}{ANY}"


def messages_of_sql(source: str) -> Iterator[str]:
    """The texts of a script, with a mark where a value goes."""
    source, *inside = re.split(
        r"\$(?:body|python)\$(.*?)\$(?:body|python)\$", source, flags=re.DOTALL
    )
    for number, part in enumerate(inside):
        if number % 2 == 0:
            # plpython3u has a function around it; what format() fills in has no message
            filled = re.sub(r"%\d\$s", "None", part).replace("%%", "%")
            yield from messages_of_python(f"if True:\n{textwrap.indent(filled, ' ')}")
        else:
            source += part
    joined = re.sub(r"'\n\s*'", "", re.sub(r"--.*", "", source))
    for text in re.findall(r"'((?:[^']|'')*)'", joined):
        yield re.sub(r"%[sIL]?", ANY, text.replace("''", "'"))


def test_every_message_in_troubleshooting_md_is_one_of_the_program() -> None:
    text = read(ROOT / "docs" / "troubleshooting.md")
    quoted = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(quoted) > 40
    known = {m for path in ROOT.glob("pyreplica/**/*.py") for m in messages_of_python(read(path))}
    known |= {m for path in ROOT.glob("sql/**/*.sql") for m in messages_of_sql(read(path))}
    for message in quoted:
        if message in FROM_POSTGRESQL:
            continue
        # what stands in <...> may be several values of the message
        pattern = re.compile(".+?".join(map(re.escape, re.split(r"<[^>]+>", message))), re.DOTALL)
        assert any(pattern.fullmatch(candidate) for candidate in known), message


# The tests that exactness.md names


def test_every_test_and_scenario_of_exactness_md_exists() -> None:
    text = read(ROOT / "docs" / "exactness.md")
    here = ROOT / "tests" / "integration"
    named = re.findall(r"`([\w./]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 60
    for file, test in named:
        source = read(here / file)
        assert not test or re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file}::{test}"
    scenarios = re.findall(r"`([a-z_]{12,})`", " ".join(re.findall(r"scenarios? (.*?) \|", text)))
    assert len(scenarios) > 30
    missing = [s for s in scenarios if not (here / "scenarios" / f"{s}.sql").exists()]
    assert missing == []


def test_every_test_of_security_md_exists() -> None:
    named = re.findall(r"\b(test_\w+)(?:`|::)", read(ROOT / "docs" / "security.md"))
    assert len(named) > 20
    sources = {path.stem: read(path) for path in ROOT.glob("tests/**/test_*.py")}
    defined = set(re.findall(r"^def (test_\w+)\(", "\n".join(sources.values()), re.MULTILINE))
    assert [name for name in named if name not in defined | sources.keys()] == []


# Without superusers


@pytest.fixture
def plain_roles(databases: Databases, tmp_path: Path) -> Iterator[Path]:
    """What INSTALL.md says for roles without superuser rights, done; gives the configuration."""
    text = section(INSTALL, "Without superusers")
    names = {side: f"pyreplica_{side}_{os.getpid()}" for side in ("master", "slave")}
    variables = [it for side, role in names.items() for it in ("-v", f"{side}_role={role}")]
    servers = {"master": databases.master_cluster, "slave": databases.slave_cluster}
    execute(databases.master, TABLES)
    for side, block in zip(servers, blocks(text, "console"), strict=True):
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "psql"
            database = arguments.index("-d")
            assert arguments[database + 1] == "shop"
            del arguments[database : database + 2]
            words = [str(ROOT / word) if word.startswith("sql/") else word for word in arguments]
            servers[side].psql("-q", *variables, *words, dbname=databases.name)
    settings = {
        side: server.dsn(databases.name, user=names[side]) for side, server in servers.items()
    }
    yield write_config(tmp_path / "shop.yaml", {"shop": settings})
    for side, server in servers.items():
        role = names[side]
        there = getattr(databases, side)
        execute(there, f"REASSIGN OWNED BY {role} TO postgres", f"DROP OWNED BY {role}")
        execute(server.dsn(), f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_roles_that_are_no_superusers_can_do_all_but_install(
    plain_roles: Path, databases: Databases
) -> None:
    assert "shop: no problems found" in pyreplica(plain_roles, "check").stdout
    pyreplica(plain_roles, "copy", "--schema")
    with daemon(plain_roles):
        execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
        execute(
            databases.master,
            "INSERT INTO item SELECT i, i, i FROM generate_series(2000, 9000) i",
            "TRUNCATE item",
            "INSERT INTO item VALUES (1, 'again', 1)",
        )
        wait(plain_roles)
        pyreplica(plain_roles, "compare")
        execute(databases.slave, "DELETE FROM item", "INSERT INTO item VALUES (2, 'extra', 1)")
        pyreplica(plain_roles, "repair", "--yes")
        pyreplica(plain_roles, "compare")
    # and look after the log
    there = databases.master_cluster.dsn(databases.name, user=f"pyreplica_master_{os.getpid()}")
    done = [rows(there, "SELECT pyreplica.rotate_log(0)")[0][0] for _ in range(3)]
    assert {"switched", "truncated"} <= set(done)


def test_a_role_that_row_security_hides_rows_from_is_refused(
    plain_roles: Path, databases: Databases
) -> None:
    execute(
        databases.master,
        "ALTER TABLE item ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY first_ones ON item USING (id <= 10)",
    )
    refused(plain_roles, "copy", "--schema", says="row-level security")


# Other files of the checkout


@pytest.mark.parametrize("name", ["pyreplica.service", "pyreplica@.service"])
def test_the_systemd_unit_runs_commands_that_exist(name: str) -> None:
    unit = read(ROOT / "pyreplica" / "contrib" / name)
    for command in re.findall(r"^Exec\w+=\S+/pyreplica (.+)$", unit, re.MULTILINE):
        main.parser().parse_args(command.split())
    assert f"RestartPreventExitStatus={errors.ConfigError.exit_code}\n" in unit


def test_the_readme_is_what_the_package_shows() -> None:
    assert 'readme = "README.md"' in read(ROOT / "pyproject.toml")
    for target in re.findall(
        r"^make (\w+)", "\n".join(blocks(read(ROOT / "README.md"), "sh")), re.M
    ):
        assert re.search(rf"^{target}:", read(ROOT / "Makefile"), re.MULTILINE)
