"""The keys of replications between databases that are all written."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from pyreplica.config.merging import Merge
from pyreplica.config.pythonfile import PythonFile
from pyreplica.errors import ConfigError
from tests.unit.test_config import shop


def test_each_merged_table_has_a_policy(tmp_path: Path) -> None:
    file = tmp_path / "merge.py"
    file.write_text("")
    found = shop(
        "both_ways: true",
        "merge:",
        "  public.note: last_update_wins",
        "  public.first: first_update_wins",
        "  public.other: {priority: [paris, tokyo]}",
        f"  public.plan: {{function: {file}}}",
        "  public.customer: columns",
        "  public.item: {counters: [stock, sold]}",
        "  public.a: error",
        "  public.b: keep_local",
        "  public.c: apply_remote",
    )
    assert found.both_ways
    assert found.merge == (
        Merge("public", "note", "last_update_wins"),
        Merge("public", "first", "first_update_wins"),
        Merge("public", "other", "priority", priority=("paris", "tokyo")),
        Merge("public", "plan", "function", function=PythonFile(file, sha256(b"").hexdigest())),
        Merge("public", "customer", "columns"),
        Merge("public", "item", "columns", ("stock", "sold")),
        Merge("public", "a", "error"),
        Merge("public", "b", "keep_local"),
        Merge("public", "c", "apply_remote"),
    )
    assert not shop().both_ways
    assert shop().merge == ()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["merge: {public.t: last_update_wins}"], "merged only where both databases are written"),
        (["both_ways: true", "guard: true"], "the slave cannot be guarded"),
        (
            ["both_ways: true", "merge: {public.t: last_update_wins}", "forward: true"],
            "`forward:` and `merge:` do not go together",
        ),
        (
            [
                "both_ways: true",
                "merge: {public.t: last_update_wins}",
                "map: {schemas: {public: shop}}",
            ],
            "`map:` and `merge:` do not go together",
        ),
        (["both_ways: true", "merge: [public.t]"], "expected a mapping of tables"),
        (["both_ways: true", "merge: {t: last_update_wins}"], "'t' is no name of a table"),
        (
            ["both_ways: true", "merge: {public.t: cell}"],
            "expected error, apply_remote, keep_local",
        ),
        (["both_ways: true", "merge: {public.t: {}}"], "expected error, apply_remote, keep_local"),
        (["both_ways: true", "merge: {public.t: {counter: [n]}}"], "unknown key"),
        (["both_ways: true", "merge: {public.t: {counters: []}}"], "expected at least one column"),
        (["both_ways: true", "merge: {public.t: {counters: [1]}}"], "expected a column's name"),
        (["both_ways: true", "merge: {public.t: priority}"], "expected error, apply_remote"),
        (["both_ways: true", "merge: {public.t: {priority: a}}"], "expected a list of nodes"),
        (["both_ways: true", "merge: {public.t: {priority: []}}"], "expected at least one node"),
        (["both_ways: true", "merge: {public.t: {priority: [a, a]}}"], "'a' is listed twice"),
        (["both_ways: true", "merge: {public.t: {priority: ['']}}"], "a node has a name"),
        (["both_ways: true", "merge: {public.t: {function: merge.py}}"], "expected the absolute"),
        (["both_ways: true", "merge: {public.t: {function: /etc/merge}}"], "expected the absolute"),
        (
            ["both_ways: true", "merge: {public.t: {function: /x.py, priority: [a]}}"],
            "expected error, apply_remote",
        ),
    ],
)
def test_what_cannot_be_is_refused(lines: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        shop(*lines)
    assert raised.value.where.startswith("pyreplica.yaml:")
