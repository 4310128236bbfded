"""Which keys a submission wants to have: what it says, or what its task's rule makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from creche.errors import RemoteProtocolError
from creche.model.flow import MAX_KEY_LENGTH
from creche.model.unique import (
    MAX_IDEMPOTENCY_KEY,
    SAME_JOB,
    Rule,
    is_idempotency_key,
    key_name,
)
from creche.wire import messages as m
from creche.wire.payload import decode_call

if TYPE_CHECKING:
    from creche.engine.core import Core

MAX_LOOK_BYTES = 64 * 1024
"""Arguments beyond that are not looked into for a key that their submitter did not tell: they would
hold up everybody else."""


class BadKey(ValueError):
    """The key of a submission cannot be told; the sentence says why."""


class Ask(NamedTuple):
    """A key that a submission wants to have, by the name it has in the store, and the rule."""

    name: bytes
    rule: Rule


class Asks:
    """Tells the keys of submissions by the rules of a plane's tasks."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._rules: dict[str, Rule] = {}
        """By task, as announced."""

    def announced(self, tasks: Iterable[str]) -> None:
        """Tasks were announced: other jobs of theirs may count as one."""
        for task in tasks:
            rule = self._core.catalog.unique(task)
            if rule is None:
                self._rules.pop(task, None)
            else:
                self._rules[task] = rule

    def concerns(self, message: m.Submit) -> bool:
        """Whether a submission may have keys."""
        options = message.options
        if options is not None and ("unique" in options or "idempotency_key" in options):
            return True
        return message.task in self._rules

    def of(self, message: m.Submit) -> Sequence[Ask]:
        """Return which keys a submission wants to have.

        Raises:
            BadKey: what it says is none, or its task's key cannot be told from what it says.
        """
        problem = check_unique(message.options or {})
        if problem is not None:
            raise BadKey(problem)
        by_rule = self._by_rule(message)
        for ask in by_rule:
            if ask.rule.delay_s is not None:
                self._check_delay(ask.rule.delay_s, message)
        return [*_given(message), *by_rule]

    def of_the_planes_own(self, message: m.Submit) -> Sequence[Ask]:
        """Return which keys a job has that the plane itself submits, by a schedule or once more:
        those that can be told. It does not wait as its task's rule says, and is run in any case."""
        if check_unique(message.options or {}) is not None:
            return ()
        asks = _given(message)
        with suppress(BadKey):
            asks += self._by_rule(message)
        return asks

    def _by_rule(self, message: m.Submit) -> list[Ask]:
        said = (message.options or {}).get("unique")
        if said is None:
            rule = self._rules.get(message.task)
            key = None if rule is None else _key_of(rule, message)
        elif said is False:
            rule = key = None
        else:
            rule, key = _told(said), said["key"]
        if rule is None or key is None:
            return []
        return [Ask(key_name("unique", message.task, key), rule)]

    def _check_delay(self, delay_s: float, message: m.Submit) -> None:
        options = message.options or {}
        if "delay_s" in options or "due_at" in options:
            raise BadKey("its task says how long it waits (debounce): it cannot be delayed too")
        limits = options.get("limits") or {}
        deadline_at = limits.get("deadline_at")
        if deadline_at is not None and deadline_at <= self._core.now() + delay_s:
            raise BadKey(
                f"it waits for {delay_s:g} s (debounce), and its deadline is before that: it could "
                "never run"
            )
        expires_s = limits.get("expires_s") or self._core.catalog.defaults(message.task).expires_s
        if expires_s is not None and expires_s <= delay_s:
            raise BadKey(
                f"it waits for {delay_s:g} s (debounce), and would expire after {expires_s:g} s: "
                "it could never run"
            )

    def refusal(self, task: str) -> tuple[str, str] | None:
        """Return why a schedule's jobs of *task* cannot be one with others, None if they can."""
        rule = self._rules.get(task)
        if rule is None or not rule.needs_code:
            return None
        return "bad-key", (
            f"task {task!r} computes its unique key in code, which the plane does not have when it "
            "submits by a schedule: let unique= name parameters"
        )


def check_unique(options: m.Facts) -> str | None:
    """Return what is wrong with what a submission says of its keys; None if nothing is."""
    given, said = options.get("idempotency_key"), options.get("unique")
    if given is not None and not is_idempotency_key(given):
        return f"an idempotency key is a text of 1 to {MAX_IDEMPOTENCY_KEY} printable characters"
    if said is None or said is False:
        return None
    key = said.get("key") if isinstance(said, dict) else None
    if not isinstance(key, str) or len(key) > MAX_KEY_LENGTH or not key.isprintable():
        return f"unique has a key: a text of up to {MAX_KEY_LENGTH} printable characters"
    try:
        _told(said)
    except ValueError as error:
        return str(error)
    return None


_TOLD = ("states", "period_s", "on_duplicate", "delay_s", "max_delay_s")
"""What a submission says beside its key."""


def _told(said: m.Facts) -> Rule:
    unknown = said.keys() - {"key", *_TOLD}
    if unknown:
        raise ValueError(f"unique has no {min(unknown)!r}: it has key, {', '.join(_TOLD)}")
    states = said.get("states")
    if states is not None and not isinstance(states, list):
        raise ValueError("states is a list of words")
    others = [said.get(name) for name in _TOLD[1:]]
    try:
        rule: Rule = _rule_of(None if states is None else tuple(states), *others)
        return rule
    except TypeError:  # something in it cannot be hashed, and so is no word and no number
        raise ValueError("unique is made of texts and numbers") from None


@lru_cache(maxsize=1000)
def _rule_of(states: tuple[str, ...] | None, *others: Any) -> Rule:
    """Return a rule: most submissions say one of a few."""
    values = (None if states is None else list(states), *others)
    told = zip(_TOLD, values, strict=True)
    return Rule.from_data({name: value for name, value in told if value is not None})


def _given(message: m.Submit) -> list[Ask]:
    """Return the idempotency key of a submission, if it has one."""
    given = (message.options or {}).get("idempotency_key")
    return [] if given is None else [Ask(key_name("idempotency", message.task, given), SAME_JOB)]


def _key_of(rule: Rule, message: m.Submit) -> str | None:
    """Return the key of a submission by name, None if it has none, or its arguments are none."""
    if rule.needs_code:
        raise BadKey(
            f"task {message.task!r} computes its unique key in code, which a submission by name "
            "does not have: submit the task object, or let unique= name parameters"
        )
    if len(message.payload) > MAX_LOOK_BYTES:
        raise BadKey(
            f"task {message.task!r} is unique by its arguments, and a plane looks into no more "
            f"than {MAX_LOOK_BYTES:,} bytes of them: submit the task object"
        )
    try:
        args, kwargs = decode_call(message.payload)
    except RemoteProtocolError:
        return None  # its worker will say so
    try:
        return rule.key_of(args, kwargs)
    except ValueError as error:
        raise BadKey(f"task {message.task!r}: its unique key cannot be told: {error}") from None
