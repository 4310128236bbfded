"""Every example of README.md and docs/ runs: files are written, commands are run, in their order.

One convention: a Python block whose first line is ``# name.py`` is that file. The blocks of a page
share a folder. In an ``sh`` block every line is a command. In a ``console`` block lines with ``$``
are, and what follows is all that they print, ``...`` standing for any text within a line. Commands
that go on for ever are started, waited for until they say that they are ready, and ended by their
process id.

The page says where things listen; here they listen on free ports, told by the environment.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PATIENCE_S = 60.0
"""For any one command; a test takes a few seconds as a whole."""

ELSEWHERE = "Try it"
"""The section whose blocks test_try_it.py and .ci/run run."""

LANGUAGES = {"python", "sh", "console"}
FILE_NAME = re.compile(r"# ([\w/]+\.py)\n")

READY = {
    # It says so when its local workers are there: from then on their tasks are known.
    "creche control-plane": re.compile(r"^ +plane +(?P<plane>ws://\S+)", re.M),
    "creche worker": re.compile(r"is connected"),
    "uvicorn": re.compile(r"running on http://(?P<app>\S+)"),
}
"""Commands that go on for ever, and what they say when they are ready."""


class Block(NamedTuple):
    language: str
    text: str
    line: int


def read_blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, but for those of `ELSEWHERE`."""
    heading = ""
    tokens = MarkdownIt().parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "inline" and before is not None and before.type == "heading_open":
            heading = token.content
        elif token.type == "fence" and heading != ELSEWHERE:
            assert token.map is not None
            yield Block(token.info.strip(), token.content, token.map[0] + 1)


def blocks_of(page: Path) -> list[Block]:
    return list(read_blocks(page.read_text(encoding="utf-8")))


class Reader:
    """Somebody who follows a page, block by block, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self._app = "127.0.0.1:8000"
        scripts = Path(sys.executable).parent
        self._env = {
            **os.environ,
            "PATH": os.pathsep.join((str(scripts), os.environ["PATH"])),
            "HOME": str(folder),
            "PYTHONUNBUFFERED": "1",
            "CRECHE_LISTEN": "ws://127.0.0.1:0",
            "CRECHE_GUI_PORT": "0",
            "UVICORN_PORT": "0",
            # Celery's own way to be told another broker: a real one, in the process.
            "CELERY_BROKER_URL": "memory://",
            "CELERY_RESULT_BACKEND": "cache+memory://",
        }

    def follow(self, block: Block) -> None:
        if block.language == "python":
            self._write(block.text)
        elif block.language == "sh":
            for line in block.text.splitlines():
                self._command(line)
        elif block.language == "console":
            for command, expected in read_console(block.text):
                printed = self._command(command, may_fail=True)
                assert fits(printed, expected), f"$ {command}\n{printed}\nexpected:\n{expected}"

    def close(self) -> None:
        """End what was started, the last first, each of them whatever another one does."""
        self._running.close()

    def _write(self, code: str) -> None:
        name = FILE_NAME.match(code)
        assert name is not None, f"a Python block begins with its file's name:\n{code}"
        path = self._folder / name[1]
        compile(code, name[1], "exec")
        path.write_text(code, encoding="utf-8")

    def _command(self, command: str, *, may_fail: bool = False) -> str:
        for beginning, is_ready in READY.items():
            if command.startswith(f"{beginning} "):
                self._start(command, is_ready)
                return ""
        command = command.replace("127.0.0.1:8000", self._app)
        if command.startswith("curl "):
            return fetch(shlex.split(command)[1:])
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert may_fail or done.returncode == 0, f"$ {command}\n{done.stdout}"
        return done.stdout

    def _start(self, command: str, is_ready: re.Pattern[str]) -> None:
        service = Service(shlex.split(command), self._folder, self._env)
        self._running.callback(service.end)
        said = service.wait_for(is_ready).groupdict()
        if "plane" in said:
            # The next plane listens where this one did, as with the default port.
            self._env["CRECHE_LISTEN"] = self._env["CRECHE_CONNECT"] = said["plane"]
        self._app = said.get("app", self._app)


class Service:
    """A process that goes on until it is ended."""

    def __init__(self, argv: list[str], folder: Path, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            argv,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._said = ""
        self._news = threading.Condition()
        self._is_over = False
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        with self._news:
            self._news.wait_for(
                lambda: self._is_over or pattern.search(self._said), timeout=PATIENCE_S
            )
            found = pattern.search(self._said)
        assert found is not None, f"it did not say {pattern.pattern!r}:\n{self._said}"
        return found

    def end(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"it did not end:\n{self._said}") from None
        finally:
            # Its children hold the pipe's other end: that it closes means that they are gone.
            self._listener.join(PATIENCE_S)
            is_left_over = self._listener.is_alive()
        assert not is_left_over, f"something it started is left over:\n{self._said}"
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._said += line
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()


def fetch(arguments: list[str]) -> str:
    """What ``curl [-X METHOD] URL`` prints, whatever the status is; curl itself is not on every
    machine."""
    method = "GET"
    if arguments[0] == "-X":
        method, arguments = arguments[1], arguments[2:]
    (url,) = arguments
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            text: str = response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode()
    return text


def read_console(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with what it prints."""
    before, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not before, f"a console block begins with a command:\n{text}"
    for part in parts:
        command, _, expected = part.partition("\n")
        yield command, expected


def fits(printed: str, expected: str) -> bool:
    pattern = re.escape(expected.strip()).replace(re.escape("..."), r"[^\n]*")
    return re.fullmatch(pattern, printed.strip()) is not None


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    try:
        yield reader
    finally:
        reader.close()


WITH_EXAMPLES = [page for page in PAGES if any(b.language in LANGUAGES for b in blocks_of(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_example_of_a_page_runs_in_its_order(page: Path, reader: Reader) -> None:
    for block in blocks_of(page):
        reader.follow(block)


def test_no_block_is_of_a_kind_that_is_not_run() -> None:
    # Drawings, a notation, and a settings file that test_command_line.py reads.
    shown = {"", "text", "cddl", "toml", "ini"}
    kinds = {block.language for page in PAGES for block in blocks_of(page)}
    assert kinds - shown <= LANGUAGES


def test_a_unit_of_systemd_starts_a_command_that_there_is() -> None:
    units = [b for page in PAGES for b in blocks_of(page) if b.language == "ini"]
    assert units
    for unit in units:
        # Some of systemd's settings may come twice.
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read_string(unit.text)
        program, command, *words = shlex.split(parser["Service"]["ExecStart"])
        assert program.endswith("/creche")
        done = subprocess.run(
            [sys.executable, "-m", "creche", command, "--help"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert all(word in done.stdout for word in words if word.startswith("--"))


def test_the_quick_start_and_the_readme_are_among_the_pages() -> None:
    names = {page.name for page in WITH_EXAMPLES}
    assert {
        "README.md",
        "quick-start.md",
        "migrating-from-celery.md",
        "coming-from-celery.md",
    } <= names


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sh", "false\n"),
        ("console", "$ echo one\ntwo\n"),
        ("console", "$ echo one\n"),
        ("python", "print(1)\n"),
    ],
)
def test_an_example_that_does_not_hold_is_found(reader: Reader, language: str, text: str) -> None:
    with pytest.raises(AssertionError):
        reader.follow(Block(language, text, 1))


def test_blocks_are_read_with_their_language_and_those_of_try_it_left_out() -> None:
    text = "# A\n```sh\none\n```\n## Try it\n```sh\ntwo\n```\n## B\n\n```python\n# a.py\n```\n"
    assert list(read_blocks(text)) == [Block("sh", "one\n", 2), Block("python", "# a.py\n", 11)]
