"""How Creche is tested: `nox` runs everything CI runs, `nox -l` lists the parts.

One environment is enough for most of a run, as installing is a dear part of it: the workshop, with
the package, what its tests need, and the tools, for the Python that runs nox. `tests` has one more
for each other Python. `wheel` installs the package from nothing each time, as a user would.
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

# One process more than a small machine has cores, as many tests wait for processes of their own. A
# file's tests stay together, so that what a module's fixture starts is started once; files with
# slow tests come first (tests/conftest.py).
IN_PARALLEL = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder")
# In `docs` one file has nearly all of it, and its tests have nothing in common.
IN_ANY_ORDER = ("-n", "3", "--dist", "worksteal")
# `docs` and `client` have their own sessions; the other two are no part of a usual run.
ELSEWHERE = ("benchmarks", "browser", "client", "docs")
FUZZ_SEEDS = "500"
SIMULATED_SEEDS = "150"  # of each kind

# What the tests of the built wheel have to show, that those of the source cannot. `test_wheel`
# builds one as well, beside the source, and compares every file of the package with it: byte for
# byte they are the same. So the same Python reads the same modules, and what a module does with its
# arguments needs no second look: that is most of the tests, and all of those that are left out
# here. Three things can differ. What is installed around it: all of it is imported beside its
# plain dependencies alone, before a test is run. What the package looks up beside its modules or in
# its metadata (migrations, the page's files, the version, the entry point), and what it makes of
# where its files are (`__file__`): `test_wheel` has a table of the modules that do so, finds those
# that are not in it, and demands that the tests that go through each are among these.
OF_THE_WHEEL = (
    "contracts/test_store.py",
    "process/test_cli_jobs.py",
    "repo/test_wheel.py",
    "unit/cli",
    "unit/dashboard",
    "unit/store",
    "unit/tasks",
    "unit/test_public_face.py",
    "unit/worker/test_failure.py",
    "unit/worker/test_watchdog.py",
)
# The parts of `creche.testing` that are tests need pytest, which their user has.
IMPORT_ALL = """
import importlib, pathlib, pkgutil, creche
names = [found.name for found in pkgutil.walk_packages(creche.__path__, "creche.")]
for name in names:
    if not name.startswith(("creche.testing.store_", "creche.__main__")):
        importlib.import_module(name)
assert "creche.engine.core" in names and "site-packages" in pathlib.Path(creche.__file__).parts
"""


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
    "simulate",
]


class Workshop:
    """The environment with the package (editable), its tests' needs and every tool."""

    def __init__(self) -> None:
        self.version = f"{sys.version_info.major}.{sys.version_info.minor}"
        self.bin = ROOT / ".nox" / f"workshop-{self.version}" / "bin"
        self._is_ready = False

    @property
    def packages(self) -> Path:
        """Where its packages are."""
        return self.bin.parent / "lib" / f"python{self.version}" / "site-packages"

    def run(self, session: nox.Session, command: str, *args: str, **env: str) -> None:
        """Run one of the workshop's commands, with the workshop first on the path."""
        self.make_ready(session)
        path = os.pathsep.join((str(self.bin), os.environ["PATH"]))
        outside = {"VIRTUAL_ENV": str(self.bin.parent), "PATH": path, **env}
        session.run(str(self.bin / command), *args, env=outside, external=True)

    def make_ready(self, session: nox.Session) -> None:
        """Make it, or install what has changed, once a run."""
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
    ignored = [f"--ignore=tests/{folder}" for folder in ELSEWHERE]
    chosen = pytest_args(session, "tests", *ignored)
    if session.python == WORKSHOP.version:
        WORKSHOP.run(session, "pytest", *chosen)
        return
    session.install(*CONSTRAINED, "-e", ".[test]")
    session.run("pytest", *chosen)


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
    WORKSHOP.run(session, "pytest", *(session.posargs or [*IN_ANY_ORDER, "tests/docs"]))


@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """What is published: the built wheel in an environment of its own, with `src` out of sight."""
    with tempfile.TemporaryDirectory(prefix="creche-wheel-") as folder:
        room = Path(folder, "checkout")
        WORKSHOP.run(session, "hatchling", "build", "-t", "wheel", "-d", folder)
        (built,) = Path(folder).glob("*.whl")
        session.install(*CONSTRAINED, str(built))
        shutil.copytree(ROOT, room, ignore=hide_source)
        session.chdir(room)
        session.run("python", "-c", IMPORT_ALL, silent=True)
        lend_tools(session)
        chosen = pytest_args(session, *(f"tests/{part}" for part in OF_THE_WHEEL))
        session.run("python", "-m", "pytest", *chosen, env={"CRECHE_WHEEL": str(built)})


def lend_tools(session: nox.Session) -> None:
    """Let a session's environment have what is installed in the workshop and not in itself: the
    tests' needs. The package that is worked on is not among that: it is no folder there, but a
    `.pth` file, and such files count only in an environment's own folder."""
    pth = Path(packages_of(session), "workshop.pth")
    pth.write_text(f"{WORKSHOP.packages}\n", encoding="utf-8")


def packages_of(session: nox.Session) -> str:
    """Where a session's own environment has its packages."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = session.run("python", "-c", where, silent=True)
    assert isinstance(own, str)
    return own.strip()


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


@nox.session(name="fuzz-wire")
def fuzz_wire(session: nox.Session) -> None:
    """Made-up bytes for whatever decodes them: by chance, and by atheris where that is to be had;
    `-- --seconds 600` says for how long, each."""
    wishes = session.posargs or ["--seconds", "60"]
    WORKSHOP.run(session, "python", "-m", "tests.unit.wire.fuzz", *wishes)
    # No wheel of it fits every Python and machine, and to build one takes a compiler of its own.
    install = ("-m", "pip", "install", "--quiet", "--only-binary=:all:", *CONSTRAINED, "atheris")
    session.run("python", *install, success_codes=[0, 1])
    lend_tools(session)
    if not Path(packages_of(session), "atheris").is_dir():
        session.skip("atheris cannot be installed for this Python or machine")
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    session.run(
        *("python", "-m", "tests.unit.wire.fuzz", "--atheris", *wishes), env={"PYTHONPATH": path}
    )


@nox.session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """Real faults to real processes, each at each moment, and the table of docs/trust.md; `--
    --fault "kill the plane" --moment running` does one of them."""
    WORKSHOP.run(session, "python", "-m", "tests.faults", *session.posargs)


@nox.session(venv_backend="none")
def soak(session: nox.Session) -> None:
    """A cluster whose peers come and go, of which nothing may grow; `-- --minutes 10`."""
    WORKSHOP.run(session, "python", "-m", "tests.soak", *session.posargs)


@nox.session(venv_backend="none")
def simulate(session: nox.Session) -> None:
    """The whole cluster with everything that goes wrong, the same seeds each time and others each
    day; `-- --seeds 20000` and so on are passed on instead."""
    run = ("python", "-m", "creche.testing.simulate")
    if session.posargs:
        WORKSHOP.run(session, *run, *session.posargs)
        return
    WORKSHOP.run(session, *run, "--seeds", SIMULATED_SEEDS)
    kept = str(ROOT / ".nox" / "seeds-that-failed")
    WORKSHOP.run(session, *run, "--dated", "--seeds", SIMULATED_SEEDS, "--keep", kept)


@nox.session(venv_backend="none")
def mistakes(session: nox.Session) -> None:
    """Mistakes that are made in the engine on purpose, and how many seeds it takes to find each."""
    WORKSHOP.run(session, "python", "-m", "tests.simulate", *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """The figures, as one JSON object; `-- --mode single` and so on are passed on."""
    WORKSHOP.run(session, "creche", "bench", "--json", *session.posargs)
