"""Real programs in the foreground, cleaned up afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rxcompact.signals import Account

HERE = Path(__file__).parent
FIELD = re.compile(r"(\w+(?: \w+)?) (\d+)(?:, |$)")
RULES = """
groups:
  - name: always
    interval: 200ms
    rules:
      - {alert: DiskFull, expr: vector(1), labels: {host: db1}}
      - {alert: DiskFull, expr: vector(1), labels: {host: db2}}
      - {alert: NodeDown, expr: vector(1), labels: {host: db1}}
"""


def missing(name: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing")
    pytest.skip(f"{name} is not here")


def find(name: str) -> str:
    # /usr/sbin is not on the path of every user
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") or missing(name)


class Program:
    def __init__(
        self, *command: str, log: Path, out: Path | None = None, variables: dict[str, str] | None = None
    ) -> None:
        with log.open("ab") as errors, (out or log).open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=log.parent,
                env=os.environ | (variables or {}),
            )
        self._log = log

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(12)
        finally:
            self._process.kill()
            self._process.wait()


class Service(Program):
    """The command, as a user runs it."""

    address: str

    def __init__(self, folder: Path, *flags: str, variables: dict[str, str] | None = None) -> None:
        self._out = folder / "published.ndjson"
        command = (sys.executable, "-m", "rxcompact", "serve", *flags)
        super().__init__(*command, log=folder / "serve.log", out=self._out, variables=variables)

    def listens(self) -> bool:
        found = re.search(r"^listening on http://(.*)/$", self.log(), re.MULTILINE)
        self.address = found[1] if found else ""
        return found is not None

    def received(self) -> int:
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=5) as answer:
            return int(float(re.search(rb"^rxcompact_received_events_total\S* (\S+)", answer.read(), re.MULTILINE)[1]))

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._out.read_text().split("\n")[:-1]]

    def drain(self) -> Account:
        """Stop it; return the account, which must balance, with nothing rejected."""
        self.stop()
        assert "Traceback" not in self.log(), self.log()
        last = self.log().splitlines()[-1]
        account = Account(**{name.replace(" ", "_"): int(number) for name, number in FIELD.findall(last)})
        ends = account.published + account.expired + account.failed + account.dropped + account.abandoned
        assert account.received == account.duplicates + account.distinct + account.rejected
        assert account.distinct == ends
        assert account.in_flight == account.rejected == 0
        return account


class Bench:
    """A folder, and the processes in it."""

    token = "s3cret"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines = folder / "app.log"
        self._programs: list[Program] = []

    def serve(self, *flags: str, listen: str = "127.0.0.1:0", variables: dict[str, str] | None = None) -> Service:
        folder = self.folder / f"serve-{len(self._programs)}"
        folder.mkdir()
        service = Service(folder, f"--listen={listen}", "--max-age=30", *flags, variables=variables)
        self._programs.append(service)
        self.until(service.listens)
        return service

    def start(self, name: str, *arguments: str) -> Program:
        program = Program(find(name), *arguments, log=self.folder / f"{name}.log")
        self._programs.append(program)
        return program

    def configured(self, name: str, address: str, changes: dict[str, str]) -> str:
        """Write a configuration of ours as a user would change it; return its path."""
        text = (HERE / name).read_text()
        for old, new in changes.items():
            assert old in text, f"{name} has no {old}"
            text = text.replace(old, new)
        host, port = address.split(":")
        path = self.folder / name
        path.write_text(text.replace("localhost", host).replace("8080", port).replace("TOKEN", self.token))
        return str(path)

    def until(self, condition: Callable[[], bool], within: float = 15.0) -> None:
        end = time.monotonic() + within
        while not condition():
            if time.monotonic() > end:
                pytest.fail("\n".join(["not in time", *(program.log()[-3000:] for program in self._programs)]))
            time.sleep(0.05)

    def write(self, *lines: str) -> None:
        """Write to the file that a log daemon follows."""
        with self.lines.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def clear(self) -> None:
        with ExitStack() as stack:  # in reverse order, even when one does not stop
            for program in self._programs:
                stack.callback(program.stop)

    # ── the senders ───────────────────────────────────────────────────────────────────────────────────────────────

    def prometheus(self, address: str) -> Program:
        (self.folder / "rules.yml").write_text(RULES)
        config = self.configured("prometheus.yml", address, {"# authorization": "authorization"})
        flags = ("--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0", "--rules.alert.resend-delay=200ms")
        return self.start("prometheus", f"--config.file={config}", *flags)

    def alertmanager(self, address: str, changes: dict[str, str]) -> tuple[Program, str]:
        """Start it; return the URL that takes alerts."""
        config = self.configured("alertmanager.yml", address, changes)
        flags = ("--storage.path=data", "--web.listen-address=127.0.0.1:0", "--cluster.listen-address=")
        program = self.start("prometheus-alertmanager", f"--config.file={config}", *flags)
        listening = re.compile(r'msg="Listening on" address=(\S+)')
        self.until(lambda: listening.search(program.log()) is not None)
        return program, f"http://{listening.search(program.log())[1]}/api/v2/alerts"

    def syslog_ng(self, address: str) -> Program:
        self.lines.touch()
        changes = {'# headers("Auth': 'headers("Auth', "/var/log/app.log": str(self.lines)}
        config = self.configured("syslog-ng.conf", address, changes)
        files = ("--persist-file=persist", "--pidfile=pid", "--control=control")
        program = self.start("syslog-ng", "--foreground", "--stderr", "--no-caps", f"--cfgfile={config}", *files)
        self.until(lambda: "starting up" in program.log())  # it does not read what was written before
        return program

    def rsyslog(self, address: str) -> Program:
        # it may be unpacked beside syslog-ng, which it cannot be installed with; its modules are where it is
        usr = Path(find("rsyslogd")).resolve().parent.parent
        module = next(usr.glob("lib/*/rsyslog/omelasticsearch.so"), None) or missing("rsyslog-elasticsearch")
        changes = {"/var/spool/rsyslog": str(self.folder), "/var/log/app.log": str(self.lines)}
        config = self.configured("rsyslog.conf", address, changes)
        return self.start("rsyslogd", "-n", "-f", config, "-i", str(self.folder / "pid"), "-M", str(module.parent))

    def collectd(self, address: str) -> Program:
        config = self.configured("collectd.conf", address, {"# Header": "Header", "Interval 10": "Interval 0.1"})
        return self.start("collectd", "-f", "-C", config, "-P", str(self.folder / "pid"))


class Store:
    """A place to publish to, closed at first: connections are refused."""

    def __init__(self) -> None:
        rows = self.rows = list[dict[str, Any]]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                rows.extend(map(json.loads, self.rfile.read(int(self.headers["Content-Length"])).splitlines()))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.server_bind()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def open(self) -> None:
        self._server.server_activate()
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.clear()


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()
