"""What `@task` makes of a function, and what it refuses to make a task of."""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import creche.tasks.models
from creche.errors import TaskDefinitionError
from creche.model.priority import Priority
from creche.tasks import AsyncTask, Registry, Signature, SubmitOptions, SyncTask, task
from creche.tasks.options import MAX_NAME_LENGTH

HERE = Path(__file__).name


@pytest.fixture
def registry() -> Registry:
    return Registry()


def resize_image(path: str, width: int = 200) -> str:
    """Make an image smaller.

    It stays where it is.
    """
    return f"{path}@{width}"


async def fetch(url: str) -> str:
    return f"got {url}"


def line_of(function: Any) -> str:
    return f"{HERE}:{inspect.unwrap(function).__code__.co_firstlineno}"


def test_a_task_is_called_as_its_function(registry: Registry) -> None:
    made = task(resize_image, registry=registry)

    assert made("a.png", width=3) == "a.png@3"
    with pytest.raises(StopIteration) as ended:
        task(fetch, registry=registry)("x").send(None)
    assert ended.value.value == "got x"


def test_a_task_looks_like_its_function(registry: Registry) -> None:
    made: Any = task(resize_image, registry=registry)

    assert made.__name__ == "resize_image"
    assert made.__qualname__ == "resize_image"
    assert made.__module__ == resize_image.__module__
    assert made.__doc__ == resize_image.__doc__
    assert made.__wrapped__ is resize_image
    assert inspect.signature(made) == inspect.signature(resize_image)
    assert repr(made) == f"<task resize_image ({made.place})>"
    assert made.place.endswith(line_of(resize_image))


def test_a_name_may_come_from_the_function_or_first_or_by_keyword(registry: Registry) -> None:
    assert task(resize_image, registry=registry).name == "resize_image"
    assert task("first", registry=registry)(resize_image).name == "first"
    assert task(name="keyword", registry=registry)(resize_image).name == "keyword"
    assert task(resize_image, name="both", registry=registry).name == "both"
    assert registry.names() == ["both", "first", "keyword", "resize_image"]


def test_a_function_decides_where_it_runs(registry: Registry) -> None:
    plain, coroutine = task(resize_image, registry=registry), task(fetch, registry=registry)

    assert isinstance(plain, SyncTask)
    assert plain.executor == "thread"
    assert isinstance(coroutine, AsyncTask)
    assert coroutine.executor == "coroutine"
    assert task("t", executor="thread", registry=registry)(resize_image).executor == "thread"
    assert task("c", executor="coroutine", registry=registry)(fetch).executor == "coroutine"


def test_a_plain_wrapper_around_an_async_def_may_say_that_it_is_one(registry: Registry) -> None:
    @functools.wraps(fetch)
    def wrapper(*args: Any) -> Any:
        return fetch(*args)

    assert task("unsaid", registry=registry)(wrapper).executor == "thread"
    made = task("said", executor="coroutine", registry=registry)(wrapper)
    assert isinstance(made, AsyncTask)
    assert made.executor == "coroutine"
    assert made.place.endswith(line_of(fetch))


class Mailer:
    def send(self, to: str) -> str:
        return f"sent {to}"

    @staticmethod
    def shout(to: str) -> str:
        return to.upper()

    @classmethod
    def make(cls, to: str) -> str:
        return f"{cls.__name__} {to}"

    async def __call__(self, to: str) -> str:
        return to


@pytest.mark.parametrize(
    ("function", "signature", "result"),
    [
        (Mailer().send, "job(to: str) -> str", "sent x"),
        (Mailer.make, "job(to: str) -> str", "Mailer x"),
        (Mailer.shout, "job(to: str) -> str", "X"),
        (Mailer.__dict__["shout"], "job(to: str) -> str", "X"),
        (
            functools.partial(resize_image, width=3),
            "job(path: str, *, width: int = 3) -> str",
            "x@3",
        ),
        (lambda x: x, "job(x)", "x"),
        (str.upper, "job(self, /)", "X"),
    ],
    ids=["bound", "class-bound", "static", "static-object", "partial", "lambda", "built-in"],
)
def test_other_callables_can_be_tasks_when_they_are_named(
    function: Callable[..., Any], signature: str, result: str, registry: Registry
) -> None:
    made = task("job", registry=registry)(function)

    assert str(made.signature) == signature
    assert made("x") == result
    assert made.declaration()["executor"] == "thread"
    json.dumps(made.declaration())


def test_an_object_with_an_async_call_is_an_async_task(registry: Registry) -> None:
    made = task("job", registry=registry)(Mailer())

    assert made.executor == "coroutine"
    assert HERE in made.place
    with pytest.raises(TaskDefinitionError, match="is an async def"):
        task("job", executor="thread", registry=registry)(Mailer())


def generator():
    yield 1


async def async_generator():
    yield 1


def _in_a_function(registry: Registry) -> object:
    @task(executor="process", registry=registry)
    def local() -> None: ...

    return local


def wants_options(**options: Any) -> Callable[[Registry], object]:
    return lambda registry: task(registry=registry, **options)(resize_image)


def wants(function: Any, *name: str, **options: Any) -> Callable[[Registry], object]:
    return lambda registry: task(*name, registry=registry, **options)(function)


REFUSED: dict[str, tuple[Callable[[Registry], object], str]] = {
    "unknown": (wants_options(prority="high"), "no option 'prority': did you mean 'priority'?"),
    "unknown-far": (wants_options(x=1), "no option 'x': it has name, queue, priority, executor"),
    "two-names": (
        wants(resize_image, "one", name="two"),
        "is given two names, 'one' and 'two': leave one of them out",
    ),
    "priority-word": (wants_options(priority="urgent"), "'urgent' is no priority: use one of crit"),
    "priority-number": (wants_options(priority=11), "11 is not on the scale of 0"),
    "executor-word": (
        wants_options(executor="elsewhere"),
        "'elsewhere' is no executor: use 'coroutine' or 'asyncio' or 'thread' or 'process'",
    ),
    "executor-odd": (wants_options(executor=["thread"]), "is no executor"),
    "coroutine-def": (wants_options(executor="coroutine"), "or write an async def"),
    "thread-async": (wants(fetch, executor="thread"), "or write a plain def"),
    "process-async": (wants(fetch, executor="process"), "which may run a loop of its own"),
    "process-local": (
        lambda registry: _in_a_function(registry),
        "cannot run with executor='process': its process imports the module and looks for it there",
    ),
    "delivery": (wants_options(delivery="exactly-once"), "use 'at-least-once' or 'at-most-once'"),
    "queue-comma": (wants_options(queue="a,b"), "no spaces and no commas, as 'a,b' has"),
    "queue-space": (wants_options(queue="a b"), "no spaces and no commas, as 'a b' has"),
    "queue-type": (
        wants_options(queue=7),
        "a text of 1 to 200 printable characters, and not 7",
    ),
    "name-empty": (wants(resize_image, ""), "its name is '': use 1 to 200 printable characters"),
    "name-space": (wants(resize_image, " a"), "without spaces around them"),
    "name-long": (wants(resize_image, "x" * (MAX_NAME_LENGTH + 1)), "(201 characters)"),
    "name-unprintable": (wants(resize_image, "a\x00"), r"its name is 'a\x00'"),
    "name-surrogate": (wants(resize_image, "\ud800"), r"its name is '\ud800'"),
    "name-type": (wants_options(name=7), "its name is 7, which is not text"),
    "lambda": (wants(lambda: None), "has no name of its own: give it one, @task('name')"),
    "partial": (wants(functools.partial(resize_image)), "has no name of its own"),
    "generator": (wants(generator), "is a generator, and a job has one result: return a list"),
    "async-generator": (wants(async_generator), "is an async generator, and a job has one result"),
    "method": (wants(Mailer.send), "is a method without its object"),
    "classmethod": (wants(Mailer.__dict__["make"]), "cannot be called by itself"),
    "class": (wants(Mailer), "is a class"),
    "number": (wants(7), "is neither a function nor a name"),
    "no-signature": (wants(dict.update), "Python cannot tell its signature"),
    "registry": (lambda _: task(registry={})(resize_image), "{} is no Registry"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_what_and_why(case: str, registry: Registry) -> None:
    attempt, words = REFUSED[case]

    with pytest.raises(TaskDefinitionError) as caught:
        attempt(registry)

    assert words in str(caught.value)
    assert len(registry) == 0


def test_a_refusal_names_the_function_and_its_place(registry: Registry) -> None:
    with pytest.raises(TaskDefinitionError) as caught:
        task(resize_image, queue="a b", registry=registry)
    assert str(caught.value).startswith("resize_image (")
    assert f"{line_of(resize_image)}): " in str(caught.value)

    with pytest.raises(TaskDefinitionError) as caught:
        task(7)
    assert f"{HERE}:" in str(caught.value)


def test_a_task_is_not_made_a_task_again(registry: Registry) -> None:
    made = task(resize_image, registry=registry)

    with pytest.raises(
        TaskDefinitionError, match=r"is the task 'resize_image' already: use with_o"
    ):
        task("again", registry=registry)(made)
    assert registry.names() == ["resize_image"]


def test_options_make_a_view_and_leave_the_task_alone(registry: Registry) -> None:
    made = task(queue="images", priority="low", registry=registry)(resize_image)
    before = made.options

    view = made.with_options(priority="high")
    again = view.with_options(delivery="at-most-once", queue="fast")

    assert made.options is before
    assert made.options == SubmitOptions("images", Priority.LOW, None)
    assert view.options == SubmitOptions("images", Priority.HIGH, None)
    assert again.options == SubmitOptions("fast", Priority.HIGH, "at-most-once")
    assert type(again) is SyncTask
    assert again.name == made.name
    assert again.function is resize_image
    assert again("a") == "a@200"
    assert again.declaration() == made.declaration()
    assert registry.get("resize_image") is made


def test_a_view_is_given_only_what_a_submission_can_carry(registry: Registry) -> None:
    made = task(resize_image, registry=registry)

    with pytest.raises(TaskDefinitionError, match=r"task 'resize_image': 'soon' is no priority"):
        made.with_options(priority="soon")
    with pytest.raises(
        TaskDefinitionError,
        match=r"queue's name .* printable characters, and not ''",
    ):
        made.with_options(queue="")


def test_options_that_a_submission_leaves_open_come_from_below() -> None:
    base = SubmitOptions("images", Priority.CRITICAL, "at-most-once")

    assert SubmitOptions().over(base) == base
    # CRITICAL is 0, and yet it is a choice.
    assert SubmitOptions("a", Priority.CRITICAL).over(SubmitOptions("b", Priority.LOW)) == (
        SubmitOptions("a", Priority.CRITICAL)
    )


def test_a_declaration_is_plain_data_and_says_what_a_client_needs(registry: Registry) -> None:
    made = task(queue="images", priority=Priority.HIGH, registry=registry)(resize_image)
    declared = made.declaration()

    assert declared == {
        "name": "resize_image",
        "module": resize_image.__module__,
        "doc": "Make an image smaller.",
        "signature": {
            "parameters": [["path", 1, None, "str"], ["width", 1, "200", "int"]],
            "returns": "str",
        },
        "queue": "images",
        "priority": 1,
        "delivery": None,
        "executor": "thread",
    }
    assert type(declared["priority"]) is int
    assert Signature.from_data("resize_image", declared["signature"]) == made.signature


def test_a_function_with_attributes_of_the_same_names_does_not_disturb_the_task(
    registry: Registry,
) -> None:
    def job() -> None: ...

    job.name = "another"
    job.options = None
    job.mine = 3
    made: Any = task(job, registry=registry)

    assert made.name == "job"
    assert made.options == SubmitOptions()
    assert made.mine == 3


def test_fastworkers_priorities_are_ours() -> None:
    assert creche.tasks.models.TaskPriority is Priority


def test_importing_tasks_loads_no_event_loop() -> None:
    code = (
        "import sys, creche.tasks, creche.tasks.models\n"
        "print(sorted({'trio', 'anyio', 'asyncio', 'cbor2', 'logging'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("[]\n", "")
