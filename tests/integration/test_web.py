"""The page in a browser, and what programs read beside it; who else asks gets nothing."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyreplica.config import Config
from pyreplica.config.http import HttpConfig
from pyreplica.daemon.web import server
from pyreplica.daemon.web.board import Board
from pyreplica.daemon.web.listener import Web
from pyreplica.daemon.web.server import Server
from pyreplica.model import Event, EventKind, State, Status
from tests.browser import Browser, chromium
from tests.conftest import Databases
from tests.integration.cli_support import SECRET, TABLES, execute, pair, wait, write_config
from tests.support import LIMIT, daemon, eventually, pyreplica, set_up

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docs" / "monitoring.md"
PATHS = ["/", "/status.json", "/healthz", "/metrics", "/page.css", "/page.js", "/icon.svg"]
NOW = datetime.now(timezone.utc)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def get(
    port: int, path: str = "/", method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Ask; gives status, headers and content."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.request(method, path, headers={"Host": "localhost", **headers})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def raw(port: int, request: bytes) -> bytes:
    """Send bytes; gives whatever comes back until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as connection:
        connection.sendall(request)
        received = b""
        with suppress(ConnectionResetError):
            while chunk := connection.recv(1 << 16):
                received += chunk
        return received


@contextmanager
def serving(board: Board | None = None, **options: object) -> Iterator[int]:
    """A server for the time of the block; gives its port."""
    port = free_port()
    started = Server(HttpConfig(port, **options), board or Board())  # type: ignore[arg-type]
    started.start()
    try:
        yield port
    finally:
        started.stop()


# The daemon


@pytest.fixture
def shop(databases: Databases, tmp_path: Path) -> tuple[Path, int]:
    """A replication that is copied and not running, with a page; and the page's port."""
    execute(databases.master, TABLES)
    port = free_port()
    replications = {"shop": pair(databases)}
    for side in ("master", "slave"):
        replications["shop"][side] += f" password={SECRET}"
    path = write_config(tmp_path / "shop.yaml", replications, http={"port": port})
    path.chmod(0o600)
    set_up(path)
    return path, port


def test_the_page_of_a_daemon_shows_what_it_does_in_a_browser_and_to_programs(
    shop: tuple[Path, int], databases: Databases, browser: Browser
) -> None:
    path, port = shop
    with daemon(path) as running:
        running.until_said(f"the page is at http://127.0.0.1:{port}/")
        execute(databases.master, "UPDATE item SET price = 0 WHERE id <= 7")
        wait(path)
        eventually(lambda: json.loads(get(port, "/status.json")[2])["replications"][0]["batch"] > 1)
        status, _, text = get(port, "/status.json")
        document = json.loads(text)
        assert (status, document["healthy"]) == (200, True)
        (shown,) = document["replications"]
        assert (shown["replication"], shown["changes"], shown["error"]) == ("shop", 7, None)
        assert [event["kind"] for event in document["events"]] == ["started"]
        assert get(port, "/healthz")[::2] == (200, "ok\n")
        values = metrics(port)
        assert values["pyreplica_changes_total", "shop"] == 7
        eventually(lambda: metrics(port)["pyreplica_lag_seconds", "shop"] == 0)
        browser.open(f"http://127.0.0.1:{port}/")
        assert browser.value("document.querySelector('h1').innerText") == "PyReplica"
        browser.until("document.querySelector('section .state').innerText === '✓ in step'")
        # an error, with its hint, in all of them
        pyreplica(path, "pause", "shop", "--reason", "<b>tea</b>")
        assert "&lt;b&gt;tea&lt;/b&gt;" in get(port)[2]
        assert get(port, "/healthz")[0] == 200
        pyreplica(path, "resume", "shop")
        execute(databases.slave, "INSERT INTO item VALUES (1000, 'mine', 1)")
        execute(databases.master, "INSERT INTO item VALUES (1000, 'theirs', 1)")
        eventually(lambda: get(port, "/healthz")[0] == 503)
        assert get(port, "/healthz")[2] == "shop: failing\n"
        assert metrics(port)["pyreplica_failing", "shop"] == 1
        page = get(port)[2]
        assert "conflict insert_exists: cannot insert public.item {&quot;id&quot;" in page
        everything = "".join(str(get(port, path)) for path in PATHS) + running.log
        assert SECRET not in everything
        assert "dbname=" not in everything


def test_healthz_tells_who_tries_again_from_who_has_ended() -> None:
    board = Board()
    board.status(Status("tries", State.FAILED, NOW, error="cannot connect", error_since=NOW))
    board.status(Status("ended", State.STOPPED, NOW, error="was dropped", error_since=NOW))
    board.status(Status("rests", State.PAUSED, NOW))
    with serving(board) as port:
        assert get(port, "/healthz")[::2] == (503, "ended: stopped\ntries: failing\n")
        assert metrics(port)["pyreplica_failing", "ended"] == 1
        assert "was dropped" in get(port)[2]


def test_a_reload_opens_moves_and_closes_the_page(
    shop: tuple[Path, int], databases: Databases
) -> None:
    path, port = shop
    with daemon(path) as running:
        running.until_said(f"the page is at http://127.0.0.1:{port}/")
        eventually(lambda: "in step" in get(port)[2])
        other = free_port()
        for http_ in ({"port": other}, None, {"port": port}):
            replications = {"shop": pair(databases)}
            write_config(path, replications, **({"http": http_} if http_ else {}))
            running.process.send_signal(signal.SIGHUP)
            for one in (port, other):
                if http_ and http_["port"] == one:
                    eventually(lambda one=one: "in step" in answered(one))  # type: ignore[misc]
                else:
                    eventually(lambda one=one: not answered(one))  # type: ignore[misc]


def answered(port: int) -> str:
    with suppress(OSError, http.client.HTTPException):
        return get(port)[2]
    return ""


def test_a_port_that_is_taken_is_said_and_replication_goes_on(
    shop: tuple[Path, int], databases: Databases
) -> None:
    path, port = shop
    with socket.create_server(("127.0.0.1", port)), daemon(path) as running:
        running.until_said(f"ERROR pyreplica: http: 127.0.0.1 port {port}: cannot listen: Address")
        execute(databases.master, "UPDATE item SET price = 0")
        wait(path)


def test_a_daemon_without_a_page_does_not_carry_it() -> None:
    program = """
import sys
from pyreplica.cli import main
from pyreplica.daemon.web.listener import Web
web = Web(None)
web.start()
for module in ("prometheus_client", "http.server", "pyreplica.daemon.web.server"):
    assert module not in sys.modules, module
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT)


def test_a_page_that_is_opened_by_a_reload_shows_what_was_said_before() -> None:
    web = Web(None)
    web.start()
    web.status(Status("shop", State.WAITING, batch=3))
    web.status(Status("gone", State.WAITING, batch=3))
    config = Config("shop.yaml", {"shop": None}, http=HttpConfig(free_port()))  # type: ignore[dict-item]
    web.reload(config)
    try:
        assert config.http is not None
        shown = json.loads(get(config.http.port, "/status.json")[2])["replications"]
        assert [one["replication"] for one in shown] == ["shop"]
    finally:
        web.stop()


def test_a_port_that_becomes_free_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TRY_AGAIN", 0.05)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        started = Server(HttpConfig(port), Board())
        started.start()
    try:
        eventually(lambda: answered(port))
    finally:
        started.stop()


# The browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser."""
    program = chromium()
    if program is None:
        pytest.skip("there is no Chromium; `make test` installs it")
    started = Browser(program, tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


def test_the_page_renews_itself_without_being_loaded_again_and_breaks_no_rule(
    browser: Browser,
) -> None:
    board = Board()
    board.status(Status("shop", State.WAITING, NOW, batch=1))
    with serving(board) as port:
        before = len(browser.complaints)
        browser.open(f"http://127.0.0.1:{port}/")
        assert browser.value("document.querySelector('section .state').innerText") == "✓ in step"
        browser.value("window.mine = document.querySelector('header'); 1")
        browser.value("document.querySelector('#live a').focus()")
        board.status(Status("shop", State.FAILED, NOW, batch=4711, error="no", hint="do"))
        renew(browser)
        browser.until("document.getElementById('live').innerText.includes('4,711')")
        assert browser.value("document.title") == "PyReplica: 1 failing"
        assert browser.value("document.querySelector('.error').innerText").endswith("no\n\ndo")
        # not loaded again, and who is at a link stays there
        assert browser.value("window.mine === document.querySelector('header')")
        assert browser.value("document.activeElement.hash") == "#of-shop"
        # what is selected is not taken away
        browser.value("getSelection().selectAllChildren(document.querySelector('.error')); 1")
        board.status(Status("shop", State.WAITING, NOW, batch=4712))
        renew(browser)
        browser.until("document.getElementById('alive').innerText.includes('Not renewed')")
        assert browser.value("document.querySelector('.error') !== null")
        browser.value("getSelection().removeAllRanges(); 1")
        renew(browser)
        browser.until("document.getElementById('live').innerText.includes('4,712')")
        assert browser.value("document.getElementById('alive').innerText") == ""
    renew(browser)
    browser.until("document.getElementById('alive').innerText.includes('does not answer, since')")
    broken = [one for one in browser.complaints[before:] if "ERR_CONNECTION_REFUSED" not in one]
    assert broken == []


def renew(browser: Browser) -> None:
    """Have the page look now, as it does when it comes to the front again."""
    browser.value("document.dispatchEvent(new Event('visibilitychange')); 1")


def test_names_errors_and_hints_cannot_bring_markup_into_the_page(browser: Browser) -> None:
    board = Board()
    evil = "<script>document.title='caught'</script><img src=x onerror=alert(1)>\"'&"
    board.status(
        Status(
            "shop", State.FAILED, NOW, note=evil, batch=1, error=evil, hint=evil, error_since=NOW
        )
    )
    board.event(Event(EventKind.ERROR, evil, NOW, evil, hint=evil))
    with serving(board) as port:
        before = len(browser.complaints)
        browser.open(f"http://127.0.0.1:{port}/")
        assert browser.value("document.images.length + document.scripts.length") == 1
        assert browser.value("document.title") == "PyReplica: 1 failing"
        assert browser.value("document.querySelector('.note').innerText") == evil
        assert browser.complaints[before:] == []
        json.loads(get(port, "/status.json")[2])
        list(text_string_to_metric_families(get(port, "/metrics")[2]))


CONTRASTS = """
(() => {
  const luminance = (color) => {
    const [r, g, b] = color.match(/[0-9.]+/g).slice(0, 3).map((c) => {
      c /= 255;
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" ? back(element.parentElement) : color;
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || element.closest("script, noscript")) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(back(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.className} ${ratio}`);
  }
  return poor;
})()
"""
"""The texts whose contrast is less than 4.5, by the formula of WCAG 2.1."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_on_a_phone_and_a_desk_in_light_and_dark(
    scheme: str, browser: Browser
) -> None:
    board = full_board()
    for state in State:
        board.status(Status(f"in-{state.name.lower()}-" + "x" * 40, state, NOW, batch=10**9))
    for kind in EventKind:
        board.event(Event(kind, "shop", NOW, "what has happened " * 9, hint="what to do"))
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    with serving(board) as port:
        browser.call("Emulation.setEmulatedMedia", features=media)
        for width in (360, 800, 1400):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.call("Emulation.setDeviceMetricsOverride", **size)
            browser.open(f"http://127.0.0.1:{port}/")
            # nothing sticks out to the right
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert browser.value(CONTRASTS) == []
        back = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(15, 19, 24)") is (scheme == "dark")


def test_without_a_script_everything_is_there_and_is_loaded_again(browser: Browser) -> None:
    with serving(full_board()) as port:
        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        try:
            browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
            browser.until("document.querySelectorAll('svg path.line').length >= 2")
            assert browser.value("document.querySelector('meta[http-equiv=refresh]') !== null")
        finally:
            browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_tables_and_drawings_tell_screen_readers_what_they_are(browser: Browser) -> None:
    with serving(full_board()) as port:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.call("Accessibility.enable")
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    known = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if "role" in n}
    names = {name for role, name in known if role == "rowheader"}
    assert "shop" in names
    assert {"Name", "State", "Lag"} <= {name for role, name in known if role == "columnheader"}
    drawings = [name for role, name in known if role in ("image", "img", "graphics-document")]
    assert any(name.startswith("Lag over the last hour: ") for name in drawings), known
    assert ("status", "") in known


# Metrics


def metrics(port: int) -> dict[tuple[str, str], float]:
    """The values by name and replication, as Prometheus reads them."""
    families = text_string_to_metric_families(get(port, "/metrics")[2])
    return {
        (sample.name, sample.labels.get("replication", "")): sample.value
        for family in families
        for sample in family.samples
    }


def full_board() -> Board:
    """A board on which everything is known."""
    board = Board()
    board.status(
        Status(
            "shop",
            State.FAILED,
            NOW,
            note="n",
            batch=9,
            changes=5,
            in_step_at=NOW,
            error="e",
            hint="h",
            error_since=NOW,
            log_bytes=4096,
            log_percent=50,
            conflicts_waiting=2,
        )
    )
    board.event(Event(EventKind.ERROR, "shop", NOW, "e", hint="h", since=NOW))
    return board


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version="),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
    ],
)
def test_metrics_have_help_and_types_in_both_forms(accept: str, content_type: str) -> None:
    with serving(full_board()) as port:
        status, headers, text = get(port, "/metrics", Accept=accept)
        assert status == 200
        assert headers["Content-Type"].startswith(content_type)
        assert text.endswith("# EOF\n") is accept.startswith("application")
        families = {f.name: f for f in text_string_to_metric_families(get(port, "/metrics")[2])}
    assert {name: family.type for name, family in families.items()} == {
        "pyreplica_build_info": "gauge",
        "pyreplica_state": "gauge",
        "pyreplica_lag_seconds": "gauge",
        "pyreplica_in_step_timestamp_seconds": "gauge",
        "pyreplica_failing": "gauge",
        "pyreplica_log_kept_bytes": "gauge",
        "pyreplica_log_limit_used_ratio": "gauge",
        "pyreplica_conflicts_waiting": "gauge",
        "pyreplica_batches": "counter",
        "pyreplica_changes": "counter",
        "pyreplica_events": "counter",
    }
    for family in families.values():
        assert family.documentation.endswith(".")
        assert family.samples, family.name
    states = {s.labels["state"]: s.value for s in families["pyreplica_state"].samples}
    assert [state for state, value in states.items() if value] == ["failing"]
    (ratio,) = families["pyreplica_log_limit_used_ratio"].samples
    assert ratio.value == 0.5
    errors = [s for s in families["pyreplica_events"].samples if s.labels["kind"] == "error"]
    assert [s.value for s in errors] == [1]


def test_what_is_not_known_is_no_metric_rather_than_a_wrong_one() -> None:
    board = Board()
    board.status(Status("shop", State.CONNECTING))
    with serving(board) as port:
        known = {name for name, replication in metrics(port) if replication == "shop"}
    assert known == {"pyreplica_state", "pyreplica_failing", "pyreplica_events_total"}


def test_every_metric_of_the_dashboard_and_of_the_docs_exists_and_is_documented() -> None:
    with serving(full_board()) as port:
        there = {name for name, _ in metrics(port)}
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    asked = " ".join(
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    )
    asked += json.dumps(dashboard["templating"])
    used = set(re.findall(r"\bpyreplica_\w+", asked))
    assert used
    assert used <= there
    documented = set(
        re.findall(r"^\| `(pyreplica_\w+)", MONITORING.read_text("utf-8"), re.MULTILINE)
    )
    assert documented == there


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    assert dashboard["title"]
    assert dashboard["id"] is None
    assert isinstance(dashboard["schemaVersion"], int)
    assert [one["type"] for one in dashboard["__inputs"]] == ["datasource"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) >= 6
    for panel in dashboard["panels"]:
        assert {"id", "type", "title", "gridPos", "targets", "datasource"} <= panel.keys()
        assert panel["datasource"]["uid"] == "${DS_PROMETHEUS}"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert all({"expr", "refId"} <= target.keys() for target in panel["targets"])


def test_status_json_has_the_documented_keys() -> None:
    with serving(full_board()) as port:
        document = json.loads(get(port, "/status.json")[2])
    text = MONITORING.read_text(encoding="utf-8")
    part = text[text.index("## status.json") :]
    tables = re.findall(r"^(?:\|.*\n)+", part[: part.index("\n## ", 5)], re.MULTILINE)
    keys = [re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) for table in tables]
    assert keys == [
        list(document),
        list(document["replications"][0]),
        list(document["events"][0]),
    ]
    assert all(value is not None for value in document["replications"][0].values())


# Who else asks


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers_that_keep_browsers_in_bounds(path: str) -> None:
    with serving(full_board()) as port:
        status, headers, _ = get(port, path)
        assert status in (200, 503)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]
        head = get(port, path, "HEAD")
        assert (head[0], head[2]) == (status, "")
        assert abs(int(head[1]["Content-Length"]) - int(headers["Content-Length"])) < 100


def test_nothing_of_the_page_is_from_elsewhere_or_inline() -> None:
    with serving(full_board()) as port:
        page, style, script = (get(port, path)[2] for path in ("/", "/page.css", "/page.js"))
    for text in (page, style, script):
        assert "//" not in re.sub(r"//[ ].*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"style=|<style| on\w+=|@import|url\(", page + style)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8080", 200),
        ("localhost:8080", 200),
        ("[::1]:8080", 200),
        ("192.168.7.7", 200),
        ("db.example.com", 200),
        ("DB.example.com:80", 200),
        ("evil.example.com", 421),
        ("localhost.evil.example.com", 421),
        ("127.0.0.1.evil.example.com", 421),
        ("", 421),
        ("[", 421),
    ],
)
def test_a_page_elsewhere_cannot_have_its_name_point_here(host: str, status: int) -> None:
    with serving(names=("db.example.com",)) as port:
        assert get(port, Host=host)[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE"])
def test_nothing_but_reading_is_answered(method: str) -> None:
    with serving() as port:
        status, headers, text = get(port, "/", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        assert method not in text


@pytest.mark.parametrize("path", ["/x", "/../pyreplica.yaml", "/page.py", "/status.json/"])
def test_there_is_nothing_elsewhere(path: str) -> None:
    with serving() as port:
        assert get(port, path)[0] == 404
        assert get(port, "/?from=bookmark")[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\x00\xff\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(request_: bytes) -> None:
    with serving(full_board()) as port:
        assert b"shop" not in raw(port, request_)
        assert get(port)[0] == 200


@pytest.mark.parametrize("part", [b"/" + b"x" * 20_000, b"/ HTTP/1.0\r\n" + b"X: y\r\n" * 5_000])
def test_a_huge_request_is_refused_before_it_is_read(part: bytes) -> None:
    with serving() as port:
        answer = raw(port, b"GET " + part)
        assert b"200" not in answer[:20]
        assert get(port)[0] == 200


def test_slow_clients_are_ended_and_others_served_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "LONGEST_REQUEST", 1.0)
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as slow:
        ended = threading.Event()

        def dribble() -> None:
            # never silent for long, and never done
            with suppress(OSError):
                while not ended.wait(0.05):
                    slow.sendall(b"G")

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            assert get(port)[0] == 200
            with suppress(ConnectionResetError):
                assert b"200" not in slow.recv(1000)[:20]
        finally:
            ended.set()
            thread.join()


def test_many_connections_do_not_make_many_threads() -> None:
    before = threading.active_count()
    with serving() as port:
        held = [
            socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
            for _ in range(2 * server.MOST_CONNECTIONS)
        ]
        try:
            # those who are turned away are told by the end of the connection
            assert held[-1].recv(1) == b""
            assert threading.active_count() <= before + server.MOST_CONNECTIONS + 1
        finally:
            for connection in held:
                connection.close()
        eventually(lambda: answered(port))
    eventually(lambda: threading.active_count() <= before)


def test_a_page_for_everybody_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "pyreplica"), serving(host="0.0.0.0") as port:
        assert get(port)[0] == 200
    assert "everybody who reaches this address can read the page" in caplog.text
