"""How Creche is tested: `nox` runs everything CI runs, `nox -l` lists the parts.

Two environments are enough for a whole run, because installing is the dearest part of it: `tests`
has one per Python, all other sessions share one workshop with the tools. Only `wheel` starts from
nothing each time, as a user would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)  # written once, as classifiers
CONSTRAINED = ("-c", "constraints.txt")

# Two processes suit the two cores of a small machine. A file's tests stay together, so that what
# a module's fixture starts is started once.
IN_PARALLEL = ("-n", "2", "--dist", "loadfile")
# `docs` and `client` have their own sessions; the other two are no part of a usual run.
ELSEWHERE = ("benchmarks", "browser", "client", "docs")
FUZZ_SEEDS = "500"


def is_found(version: str) -> bool:
    """Whether python<version> starts: pyenv has commands on the path that only print an error."""
    command = shutil.which(f"python{version}")
    if command is None:
        return False
    probe = [command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    answer = subprocess.run(probe, capture_output=True, text=True, check=False)
    return answer.returncode == 0 and answer.stdout.strip() == version


def chosen_pythons() -> list[str]:
    """The Pythons of a plain `nox`: the oldest found, or CRECHE_PYTHONS (`all`, `3.12,3.13`)."""
    wish = os.environ.get("CRECHE_PYTHONS", "oldest")
    if wish == "all":
        return PYTHONS
    if wish != "oldest":
        return [version.strip() for version in wish.split(",")]
    return next(([version] for version in PYTHONS if is_found(version)), PYTHONS[:1])


nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = False
# Otherwise a missing interpreter is an error where CI is set; here it is skipped, and named.
nox.options.error_on_missing_interpreters = False
nox.options.sessions = [
    *(f"tests-{version}" for version in chosen_pythons()),
    "client",
    "types",
    "lint",
    "imports",
    "docs",
    "wheel",
]


class Workshop:
    """The environment with the package (editable), its tests' needs and every tool."""

    def __init__(self) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        self.bin = ROOT / ".nox" / f"workshop-{version}" / "bin"
        self._is_ready = False

    def run(self, session: nox.Session, command: str, *args: str, **env: str) -> None:
        """Run one of the workshop's commands, with the workshop first on the path."""
        self._make_ready(session)
        path = os.pathsep.join((str(self.bin), os.environ["PATH"]))
        outside = {"VIRTUAL_ENV": str(self.bin.parent), "PATH": path, **env}
        session.run(str(self.bin / command), *args, env=outside, external=True)

    def _make_ready(self, session: nox.Session) -> None:
        if self._is_ready:
            return
        python = str(self.bin / "python")
        if not Path(python).exists():
            make = (sys.executable, "-m", "virtualenv", "--quiet", str(self.bin.parent))
            session.run(*make, external=True)
        install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        session.run(python, *install, *CONSTRAINED, "-e", ".[dev]", external=True)
        self._is_ready = True


WORKSHOP = Workshop()


def pytest_args(session: nox.Session, *args: str) -> list[str]:
    """What was asked for after `--`, else *args*, in parallel."""
    return session.posargs or [*IN_PARALLEL, *args]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Everything but client and docs; `-- PATH...` runs a part, in one process."""
    missing = [version for version in PYTHONS if not is_found(version)]
    session.log(f"interpreters not on the path: {', '.join(missing) or 'none'}")
    session.install(*CONSTRAINED, "-e", ".[test]")
    ignored = [f"--ignore=tests/{folder}" for folder in ELSEWHERE]
    session.run("pytest", *pytest_args(session, "tests", *ignored))


@nox.session(venv_backend="none")
def client(session: nox.Session) -> None:
    """The client, on asyncio and on Trio."""
    WORKSHOP.run(session, "pytest", *pytest_args(session, "tests/client"))


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Mypy (strict) and pyright judge the package, and the calls that must and must not pass."""
    WORKSHOP.run(session, "mypy")
    WORKSHOP.run(session, "pyright", "--pythonpath", str(WORKSHOP.bin / "python"))


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Ruff: its rules, then its layout. `ruff check --fix; ruff format` mends most of it."""
    WORKSHOP.run(session, "ruff", "check", *session.posargs)
    WORKSHOP.run(session, "ruff", "format", "--check")


@nox.session(venv_backend="none")
def imports(session: nox.Session) -> None:
    """Which room may import which."""
    WORKSHOP.run(session, "lint-imports")


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """The links and the examples of README and docs/ hold, by running them."""
    WORKSHOP.run(session, "pytest", *(session.posargs or ["tests/docs"]))


@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """What is published: the built wheel in an environment of its own, with `src` out of sight."""
    with tempfile.TemporaryDirectory(prefix="creche-wheel-") as folder:
        room = Path(folder, "checkout")
        session.install(*CONSTRAINED, "hatchling")
        session.run("hatchling", "build", "-t", "wheel", "-d", folder, silent=True)
        (built,) = Path(folder).glob("*.whl")
        session.install(*CONSTRAINED, f"creche[test] @ {built.as_uri()}")
        shutil.copytree(ROOT, room, ignore=hide_source)
        session.chdir(room)
        parts = [part for part in ("unit", "contracts", "repo") if (room / "tests" / part).is_dir()]
        chosen = pytest_args(session, *(f"tests/{part}" for part in parts))
        session.run("pytest", *chosen, env={"CRECHE_WHEEL": str(built)})


def hide_source(folder: str, names: list[str]) -> set[str]:
    """What the copy of the checkout leaves out: the source, and what is no part of the project."""
    hidden = {name for name in names if name == "__pycache__" or name.endswith("_cache")}
    if Path(folder) == ROOT:
        hidden |= {"src", ".git", ".nox", ".hypothesis", "dist"}
        hidden |= {name for name in names if name.startswith((".venv", "creche.db"))}
    return hidden & set(names)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Drawn trouble for the whole engine; `-- --from 0 --seeds 5000` says how much of it."""
    WORKSHOP.run(
        session, "python", "-m", "tests.fuzz", *(session.posargs or ["--seeds", FUZZ_SEEDS])
    )


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """The figures, as one JSON object; `-- --mode single` and so on are passed on."""
    WORKSHOP.run(session, "creche", "bench", "--json", *session.posargs)
