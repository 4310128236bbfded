"""`creche control-plane`: the plane, with local workers and the live page beside it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Annotated, Any
from urllib.parse import urlsplit

import trio
from cyclopts import Parameter

from creche import __version__
from creche.channel.handshake import authority, parse_url, why_not_listening
from creche.channel.tls import TlsFiles
from creche.cli import logs
from creche.cli.descriptors import room_for_peers
from creche.cli.doors import Doors, open_doors, reaches_out
from creche.cli.exits import Exit
from creche.cli.options import (
    DEFAULT_URL,
    FLAG,
    Bytes,
    Count,
    CountOrNone,
    ListenOption,
    LogLevel,
    Names,
    Port,
    Seconds,
    SecondsOrNone,
    TlsFile,
)
from creche.cli.output import say, say_bold
from creche.cli.processes import (
    ParentPipe,
    argv,
    check_argv,
    ignore_terminal,
    look_for_cycles_rarely,
    stop_signals,
    wait_for_parent_to_end,
)
from creche.cli.systemd import Manager
from creche.engine.children import Child
from creche.engine.plane import Running, run_plane
from creche.engine.scaling import Pool, Scale
from creche.engine.settings import DISK_RETENTION, MEMORY_RETENTION, PlaneSettings, Route
from creche.errors import ListenError, SettingsError
from creche.model.names import why_no_queue
from creche.store.base import Durability, Retention
from creche.store.urls import check_free, make_store
from creche.tasks.options import AsyncExecutor

logger = logging.getLogger("creche.plane")

DEFAULT_PORT = 5570

LOCAL_WORKERS_S = 10.0
"""How long the plane waits for its local workers before it says that it is ready all the same."""

CHECK_S = 60.0
"""How long importing the task modules may take before the plane is started."""


async def control_plane(
    *,
    task_modules: Names | None = None,
    listen: ListenOption = DEFAULT_URL,
    insecure: Annotated[bool, FLAG] = False,
    tokens: Annotated[str | None, Parameter(metavar="FILE")] = None,
    tls_cert: TlsFile = None,
    tls_key: TlsFile = None,
    tls_ca: TlsFile = None,
    allow_origin: Annotated[Names | None, Parameter(metavar="ORIGIN")] = None,
    allow_host: Annotated[Names | None, Parameter(metavar="NAME")] = None,
    store: Annotated[str, Parameter(metavar="STORE")] = "sqlite:creche.db",
    store_bytes: Count | None = None,
    workers: CountOrNone = 1,
    max_workers: Count | None = None,
    concurrency: Count = 10,
    async_executor: AsyncExecutor = "coroutine",
    max_jobs_per_process: Count | None = None,
    max_memory_per_process: Bytes | None = None,
    gui: Annotated[bool, Parameter(name="--gui", negative="--no-gui")] = True,
    gui_host: Annotated[str, Parameter(metavar="HOST")] = "127.0.0.1",
    gui_port: Port = 8080,
    gui_insecure: Annotated[bool, FLAG] = False,
    drain_timeout: SecondsOrNone = 30.0,
    keep_alive: Seconds = 10.0,
    grace: Seconds = 15.0,
    lease: Seconds = 60.0,
    window: Count = 10_000,
    fairness: Count | None = None,
    routes: Annotated[Names | None, Parameter(metavar="PATTERN=QUEUE")] = None,
    result_cache_size: Count | None = None,
    result_cache_ttl: Seconds | None = None,
    result_cache_bytes: Count | None = None,
    reload: Annotated[bool, FLAG] = False,
    log_level: LogLevel = "info",
    worker_id: Annotated[str, Parameter(show=False)] = "local",
    ready_fd: Annotated[int | None, Parameter(show=False, show_env_var=False)] = None,
    parent_pipe: ParentPipe = None,
) -> int:
    """Run the plane: queues, store, local workers and the live page.

    The first SIGTERM or Ctrl-C, or the closing of its terminal, refuses what is new and lets
    running jobs end, the second ends it at once; accepted jobs are in the store either way.

    Args:
        task_modules: Where the tasks are: modules (shop.tasks) or files (shop/tasks.py). Local
            workers import them; the plane does not. Without any there are no local workers.
        insecure: Listen where other machines reach the plane although nobody has to show anything
            there.
        tokens: The file of tokens, as `creche tokens` makes them: only who shows one of them is
            let in, and may do what it is for. Read again when it has changed.
        tls_cert: The plane's certificate, in PEM: it speaks TLS only, and so does its page.
        tls_key: The key of that, if it is in another file.
        tls_ca: Whose certificates peers have to show; without, they need none.
        allow_origin: Web pages that may dial the plane, as https://example.org; none when not
            given.
        allow_host: Further names by which it is called, as by a proxy. Where other machines reach
            it, it answers to any, unless some are given.
        store: Where jobs are kept: sqlite:PATH, or memory: for as long as the plane runs.
        store_bytes: How large the store's file may become before it takes no new jobs; 64 GiB
            when not given.
        workers: How many local worker processes to run.
        max_workers: How many there may be while jobs wait; as many as --workers when not given.
        concurrency: How many jobs each of them runs at a time.
        async_executor: Where they run async def tasks that do not say it themselves: coroutine
            (on Trio) or asyncio.
        max_jobs_per_process: After so many jobs, a process for tasks with executor="process" is
            replaced by a fresh one.
        max_memory_per_process: One that has more in memory after a job is replaced, too: 512MiB.
        gui: Serve the live page.
        gui_host: Where the page listens.
        gui_port: Its port; 0 takes a free one.
        gui_insecure: Let the page listen on more than this machine's loopback: everybody who
            reaches it may look.
        drain_timeout: How many seconds running jobs have to end when the plane stops.
        keep_alive: How often peers are pinged, in seconds.
        grace: How many seconds a session outlives its connection.
        lease: How many seconds a silent worker keeps its jobs.
        window: Jobs of one lane that are held in memory; what is beyond waits in the store.
        fairness: After so many jobs have overtaken a lower lane it may pass once; strict order
            when not given.
        routes: Where jobs go whose submission and task name no queue, as PATTERN=QUEUE:
            mail.*=emails sends those of all tasks whose names begin so to emails. The first that
            fits counts. Local workers listen there too.
        result_cache_size: How many results are kept: with memory: 10,000, else any number.
        result_cache_ttl: For how many seconds: with memory: an hour, else 7 days.
        result_cache_bytes: For how many bytes of them: with memory: 256 MiB, else 4 GiB.
        reload: Start local workers anew when Python files change: for development.
        worker_id: What the local workers' names begin with.
    """
    if task_modules == []:
        raise SettingsError("--task-modules names nothing: give a name, or leave the option out")
    ignore_terminal(parent_pipe)
    look_for_cycles_rarely()
    logs.set_up(log_level)
    files = TlsFiles(tls_ca, tls_cert, tls_key)
    where = _address(listen, has_tls=bool(files))
    doors = open_doors(
        *(where, tokens, files),
        is_insecure=insecure,
        origins=allow_origin or (),
        hosts=allow_host or (),
    )
    settings = _settings(
        make_store(store).durability,
        Retention(result_cache_size, result_cache_bytes, result_cache_ttl),
        keep_alive_s=keep_alive,
        grace_s=grace,
        lease_s=lease,
        drain_s=drain_timeout,
        window=window,
        fairness=fairness,
        routes=[_route(text) for text in routes or ()],
        sessions=room_for_peers(PlaneSettings().sessions, max(workers, max_workers or 0)),
    )
    try:
        _check_port(*where)
        page = _Page.reserve(gui_host, gui_port, files, is_open=gui_insecure) if gui else None
    except ListenError:
        # A plane that runs in this folder has the ports as well. It is the thing to be told of.
        check_free(store)
        raise
    # The plane never imports user code, so a child finds out whether the workers will be able to.
    modules = (task_modules or []) if workers else []
    tasks = await _check(modules, async_executor) if modules else []
    if max_workers is not None and not 0 < workers <= max_workers:
        raise SettingsError(
            f"--max-workers {max_workers}, and --workers {workers}: there is at least 1 worker, "
            "and no more than the most"
        )
    given = {
        "--workers": workers not in (0, 1),
        "--max-workers": max_workers is not None,
        "--concurrency": concurrency != 10,
        "--async-executor": async_executor != "coroutine",
        "--max-jobs-per-process": max_jobs_per_process is not None,
        "--max-memory-per-process": max_memory_per_process is not None,
        "--reload": reload,
        "--task-modules": bool(task_modules),
    }
    if not modules:
        _warn_of_unused([option for option, is_given in given.items() if is_given])
    local = _LocalWorkers(
        *(modules, tasks, workers if modules else 0, max_workers or workers),
        *(concurrency, async_executor, worker_id),
        settings,
        (max_jobs_per_process, max_memory_per_process),
        reload,
    )
    manager = Manager.of_this_process()
    house = _House(store, store_bytes, settings, local, page, log_level, ready_fd, manager, doors)
    return await _until_stopped(
        *(house.plane(), house.tell, doors.keep, drain_timeout, parent_pipe, manager)
    )


def _warn_of_unused(options: Sequence[str]) -> None:
    """Say which *options* are for local workers, where there are none."""
    if options:
        why = "with --workers 0" if "--task-modules" in options else "without --task-modules"
        verb = "changes" if len(options) == 1 else "change"
        say("warning", f"{why} there are no local workers: {', '.join(options)} {verb} nothing")


def _route(text: str) -> Route:
    pattern, equals, queue = (part.strip() for part in text.partition("="))
    if not (pattern and equals and queue):
        raise SettingsError(
            f"--routes: {text!r} is no route: write PATTERN=QUEUE, as in 'mail.*=emails'"
        )
    if (wrong := why_no_queue(queue)) is not None:
        raise SettingsError(f"--routes: {wrong}")
    return Route(pattern, queue)


def _check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on, before a store is made for a plane that cannot run.

    Raises:
        ListenError: it cannot.
    """
    try:
        _probe(host, port)
    except (OSError, UnicodeError) as error:
        raise ListenError(why_not_listening(host, port, error)) from None


@dataclass(frozen=True, slots=True)
class _House:
    """A plane with what is beside it."""

    store: str
    store_bytes: int | None
    settings: PlaneSettings
    local: _LocalWorkers
    page: _Page | None
    log_level: str
    ready_fd: int | None
    manager: Manager
    doors: Doors

    def plane(self) -> Callable[..., Any]:
        """Return what runs the plane, once it is told when to stop."""
        make = partial(make_store, self.store, self.store_bytes)
        front, inside = self.doors.front, self.doors.inside
        run = partial(run_plane, make, front.listen, self.settings, door=front.door, inside=inside)
        return partial(run, children=self.children, pool=self.pool if self.local.number else None)

    def children(self, running: Running) -> list[Child]:
        """Return what the plane keeps running beside itself."""
        if self.page is None:
            return []
        return [self.page.child(running.inside, self.log_level, self.doors.page_fd)]

    def pool(self, running: Running) -> Pool:
        """Return the local workers that it keeps running."""
        return self.local.pool(running.inside, self.log_level, self.doors.worker_fd)

    async def tell(self, running: Running, stop: trio.Event) -> None:
        """Say that the plane is ready, unless *stop* is set by then."""
        # A job of a task that no worker has announced yet would be parked with a warning. Workers
        # without a task announce none.
        with trio.move_on_after(LOCAL_WORKERS_S):
            await running.core.wait_for_workers(self.local.number if self.local.tasks else 0)
        if stop.is_set():
            return
        _print_banner(running, self.store, self.page, self.local)
        self.manager.tell("READY=1", f"STATUS=listening at {running.addresses[0]}")
        if self.ready_fd is not None:
            _tell_parent(self.ready_fd, running)


def _tell_parent(ready_fd: int, running: Running) -> None:
    """Write to the pipe of whoever started this plane that it is ready, and where."""
    with open(ready_fd, "w", encoding="utf-8") as pipe:
        json.dump({"addresses": running.addresses, "epoch": running.epoch}, pipe)


def _address(listen: str, *, has_tls: bool) -> tuple[str, int]:
    """Return host and port of ``--listen``; port 0 stays 0."""
    target = parse_url(listen)
    if target.is_tls and not has_tls:
        raise SettingsError(f"--listen {listen} is TLS: --tls-cert and --tls-key are wanted")
    port = urlsplit(listen).port
    return target.host, DEFAULT_PORT if port is None else port


def _settings(durability: Durability, given: Retention, **options: Any) -> PlaneSettings:
    usual = DISK_RETENTION if durability is Durability.DISK else MEMORY_RETENTION
    retention = replace(
        usual,
        max_count=usual.max_count if given.max_count is None else given.max_count,
        max_bytes=usual.max_bytes if given.max_bytes is None else given.max_bytes,
        max_age_s=usual.max_age_s if given.max_age_s is None else given.max_age_s,
    )
    try:
        return PlaneSettings(retention=retention, **options)
    except ValueError as error:
        raise SettingsError(str(error)) from None


async def _until_stopped(
    run: Callable[..., Any],
    on_ready: Callable[[Running, trio.Event], Awaitable[None]],
    beside: Callable[[], Awaitable[None]],
    drain_s: float,
    parent_pipe: int | None,
    manager: Manager,
) -> Exit:
    """Run the plane until a signal has stopped it; the second one does not wait."""
    stop = trio.Event()
    code = Exit.DONE
    async with trio.open_nursery() as nursery:

        async def on_signals() -> None:
            nonlocal code
            with stop_signals(parent_pipe) as signals:
                async for number in signals:
                    if stop.is_set():
                        code = Exit(128 + number)
                        nursery.cancel_scope.cancel()
                        return
                    say("", f"stopping; running jobs have {drain_s:g} s (again: stop at once)")
                    manager.tell("STOPPING=1")
                    stop.set()

        async def on_orphaned(pipe: int) -> None:
            await wait_for_parent_to_end(pipe)
            nursery.cancel_scope.cancel()

        async def plane() -> None:
            async with trio.open_nursery() as inner:
                await on_ready(await inner.start(partial(run, stop=stop)), stop)
            nursery.cancel_scope.cancel()

        nursery.start_soon(on_signals)
        nursery.start_soon(manager.keep_alive)
        nursery.start_soon(beside)
        if parent_pipe is not None:
            nursery.start_soon(on_orphaned, parent_pipe)
        nursery.start_soon(plane)
    return code


# --- local workers and the page -----------------------------------------------------------------


async def _check(modules: Sequence[str], async_executor: AsyncExecutor) -> list[str]:
    """Import the task modules in a child and return the names of their tasks.

    Raises:
        SystemExit: no worker would start with them; the child has said why.
    """
    # Loaded once, so that what they lack is said before anything listens.
    command = check_argv(modules, async_executor)
    with trio.move_on_after(CHECK_S):
        done = await trio.run_process(command, capture_stdout=True, check=False)
        if done.returncode != 0:
            raise SystemExit(Exit.USAGE)
        report = json.loads(done.stdout)
        for warning in report["warnings"]:
            say("warning", warning)
        return [str(task["name"]) for task in report["tasks"]]
    raise SettingsError(
        f"importing {', '.join(modules)} took more than {CHECK_S:g} s: what do they do on import?"
    )


@dataclass(frozen=True, slots=True)
class _LocalWorkers:
    """The worker processes beside the plane."""

    modules: Sequence[str]
    tasks: Sequence[str]
    number: int
    most: int
    concurrency: int
    async_executor: AsyncExecutor
    prefix: str
    settings: PlaneSettings
    used_up: tuple[int | None, int | None]
    """After how many jobs, and over how many bytes, their processes are replaced."""
    reload: bool

    def pool(self, url: str, log_level: str, credential_fd: int | None) -> Pool:
        """Return the workers that the plane is to keep running, as many as are needed."""
        return Pool(self._children(url, log_level, credential_fd), Scale(self.number, self.most))

    def _children(self, url: str, log_level: str, credential_fd: int | None) -> list[Child]:
        # The plane's pid is in the names: after a crash the old workers may still be there for
        # their grace, and two of one name cannot be told apart.
        names = [f"{self.prefix}-{os.getpid()}-{n}" for n in range(1, self.most + 1)]
        words, fds = _credential_words(credential_fd)
        return [
            Child(name, partial(self._argv, name, url, log_level, words), fds) for name in names
        ]

    def _argv(
        self, name: str, url: str, log_level: str, credential: Sequence[str], pipe: int
    ) -> Sequence[str]:
        names = ("--max-jobs-per-process", "--max-memory-per-process")
        limits = [(name, str(n)) for name, n in zip(names, self.used_up, strict=True) if n]
        return argv(
            *("worker", "--connect", url, "--worker-id", name),
            *("--concurrency", str(self.concurrency)),
            *("--async-executor", self.async_executor),
            *("--drain-timeout", str(max(self.settings.drain_s, 0.1))),
            *("--grace", str(self.settings.grace_s)),
            *chain.from_iterable(limits),
            *(["--reload"] if self.reload else []),
            *(part for route in self.settings.routes or () for part in ("--routed", route.queue)),
            *("--log-level", log_level),
            *credential,
            *("--parent-pipe", str(pipe), "--task-modules", *self.modules),
        )


def _credential_words(fd: int | None) -> tuple[list[str], tuple[int, ...]]:
    """Return how a child is told where its token is, and what it inherits for that."""
    return ([], ()) if fd is None else (["--credential-fd", str(fd)], (fd,))


@dataclass(frozen=True, slots=True)
class _Page:
    """The live page's process, and where it listens."""

    host: str
    port: int
    is_open: bool
    files: TlsFiles

    @classmethod
    def reserve(cls, host: str, port: int, files: TlsFiles, *, is_open: bool) -> _Page:
        """Return a page on *port*, or on a free one if that is 0, where it can be listened on.

        The page's process binds it later. Were it not looked at here, a port in use would only be
        a line in the log, below a banner that promises a page.

        Raises:
            ListenError: it cannot.
            SettingsError: more than this machine would reach it without a certificate, and
                *is_open* is false.
        """
        try:
            _, number = _probe(host, port)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ListenError(
                f"the page cannot listen on {authority(host, port)}: {why}: "
                "choose another --gui-port, or leave it out with --no-gui"
            ) from None
        if not is_open and not files.ca and reaches_out(host, port):
            raise SettingsError(
                "the page has no login, so it listens on loopback only, not on "
                f"{host!r}: use 127.0.0.1, want certificates of who looks (--tls-ca), or say that "
                "everybody who reaches it may look (--gui-insecure)"
            )
        return cls(host, number, is_open, files)

    @property
    def url(self) -> str:
        """Its address, for a browser."""
        scheme = "https" if self.files else "http"
        return f"{scheme}://{authority(self.host, self.port)}"

    def child(self, plane_url: str, log_level: str, credential_fd: int | None) -> Child:
        """Return what the plane is to keep running."""
        words = ["gui", "--connect", plane_url, "--host", self.host, "--port", str(self.port)]
        words += ["--insecure"] if self.is_open else []
        for name, path in (
            ("cert", self.files.cert), ("key", self.files.key), ("ca", self.files.ca),
        ):  # fmt: skip
            words += [f"--gui-tls-{name}", path] if path is not None else []
        credential, fds = _credential_words(credential_fd)
        words += [*credential, "--log-level", log_level, "--parent-pipe"]
        return Child("the page", lambda pipe: argv(*words, str(pipe)), fds)


def _probe(host: str, port: int) -> tuple[str, int]:
    """Bind a socket as Trio's listeners do, let go of it, and return its address and port.

    Raises:
        OSError, UnicodeError: it cannot be bound, or there is no such host.
    """
    places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in places:
        try:
            return _bind_once(family, address)
        except OSError as error:
            # A name has addresses of both families, also where the system has no IPv6.
            if error.errno != errno.EAFNOSUPPORT:
                raise
    raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))


def _bind_once(family: int, address: Any) -> tuple[str, int]:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)
        bound, number = probe.getsockname()[:2]
        return str(bound), int(number)


# --- what is said when it is ready --------------------------------------------------------------


def _print_banner(running: Running, store: str, page: _Page | None, local: _LocalWorkers) -> None:
    facts = [("page", page.url)] if page is not None else []
    facts += [("plane", address) for address in running.addresses]
    facts.append(("store", f"{store} (epoch {running.epoch})"))
    if local.number:
        slots = local.number * local.concurrency
        facts.append(("workers", f"{local.number}, {slots} slots"))
        facts.append(("tasks", _shortened(local.tasks)))
    else:
        command = f"creche worker{_connect_option(running)} --task-modules ..."
        facts.append(("workers", f"none here: `{command}` joins"))
    say_bold(f"creche {__version__} is ready")
    lines = ["", *(f"  {name:<8}{value}" for name, value in facts), "", "  Ctrl-C stops it.", ""]
    say("", "\n".join(lines))


def _connect_option(running: Running) -> str:
    """Return what a worker of this machine needs to find the plane; nothing at the usual place."""
    url = parse_url(running.addresses[0])
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(url.host, url.host)  # all addresses
    place = f"{'wss' if url.is_tls else 'ws'}://{authority(host, url.port)}"
    return "" if place == DEFAULT_URL else f" --connect {place}"


def _shortened(names: Sequence[str], most: int = 8) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
