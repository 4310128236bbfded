"""Tokens: how they are made, kept, recognized and refused."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.model.access import (
    ID_BYTES,
    MAX_CREDENTIAL,
    SECRET_BYTES,
    AccessRole,
    BadToken,
    Token,
    check_queues,
    digest_of,
    fits,
    id_in,
    new_word,
    owner_of,
    patterns_in,
    read_tokens,
    redacted,
    roles_in,
    why_no_credential,
    without,
)

ENTROPY = st.binary(min_size=ID_BYTES + SECRET_BYTES, max_size=ID_BYTES + SECRET_BYTES)
TOKEN_ID, WORD = new_word(bytes(range(ID_BYTES + SECRET_BYTES)))
SUBMIT = frozenset({AccessRole.SUBMIT})
TOKEN = Token(TOKEN_ID, digest_of(WORD), SUBMIT)
GOOD = {"id": "abcd12", "sha256": "0" * 64, "roles": ["submit"]}


def test_a_secret_has_256_random_bits() -> None:
    assert SECRET_BYTES * 8 == 256
    with pytest.raises(ValueError, match="38 random bytes"):
        new_word(b"too short")


@given(ENTROPY)
def test_a_token_is_known_by_its_word_and_by_nothing_that_is_like_it(entropy: bytes) -> None:
    token_id, word = new_word(entropy)
    tokens = {token_id: Token(token_id, digest_of(word), SUBMIT)}
    assert owner_of(word, tokens) is tokens[token_id]
    assert why_no_credential(word) is None
    other = word[:-2] + ("A" if word[-2] != "A" else "B") + word[-1]
    for wrong in (other, word + "A", word[:-1], word.upper(), f" {word}", token_id, "", None):
        assert owner_of(wrong, tokens) is None


def test_a_word_is_of_no_token_of_another_id() -> None:
    _, other = new_word(b"\xff" * (ID_BYTES + SECRET_BYTES))
    assert owner_of(other, {TOKEN_ID: TOKEN}) is None
    assert owner_of(WORD, {}) is None
    assert owner_of("", {}) is None
    assert owner_of("x" * (MAX_CREDENTIAL + 1), {TOKEN_ID: TOKEN}) is None


def test_what_is_kept_is_the_sha256_of_the_word_and_not_the_word() -> None:
    line = TOKEN.as_line()
    assert json.loads(line)["sha256"] == sha256(WORD.encode()).hexdigest()
    assert WORD not in line
    assert WORD.split("_", 2)[2] not in line


@given(
    st.frozensets(st.sampled_from(AccessRole), min_size=1),
    st.none() | st.integers(0, 2**33).map(float),
    st.text(max_size=20),
)
def test_what_is_kept_of_a_token_is_read_back(
    roles: frozenset[AccessRole], expires_at: float | None, note: str
) -> None:
    queues = ("images", "mail.*") if roles <= {AccessRole.SUBMIT, AccessRole.WORK} else None
    token = Token(TOKEN_ID, digest_of(WORD), roles, queues, expires_at, note)
    (kept,) = read_tokens(f"# ours\n\n{token.as_line()}\n").values()
    assert kept == token
    assert kept.note == note


def again(record: dict[str, Any], more: str) -> str:
    """Return the line of *record* that says one of its fields once more: the last would count."""
    return f"{json.dumps(record)[:-1]}, {more}}}"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nonsense", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ("[]", "it is no JSON object"),
        (json.dumps(GOOD | {"queue": ["a"]}), "and not 'queue'"),
        (json.dumps(GOOD | {"id": "ABC"}), "id is 4 to 32 hexadecimal digits"),
        (json.dumps(GOOD | {"sha256": WORD}), "sha256 is 64 hexadecimal digits"),
        (json.dumps(GOOD | {"roles": []}), "roles is a list of view, submit, work, operate, admin"),
        (json.dumps(GOOD | {"roles": "submit"}), "roles is a list"),
        (json.dumps(GOOD | {"roles": ["root"]}), "'root' is no role"),
        (json.dumps(GOOD | {"roles": [["submit"]]}), "is no role"),
        (json.dumps(GOOD | {"queues": []}), "queues is a list of names or patterns"),
        (json.dumps(GOOD | {"queues": ["a", 1]}), "names of 1 to 200 characters"),
        (json.dumps(GOOD | {"roles": ["admin"], "queues": ["a"]}), "admin is about all of them"),
        (json.dumps(GOOD | {"expires": "2027-01-31T18:30"}), "a moment with its offset"),
        (json.dumps(GOOD | {"expires": 5}), "a moment with its offset"),
        (json.dumps(GOOD | {"expires": "0001-01-01T00:00+14:00"}), "in the years 1 to 9999 of UTC"),
        (json.dumps(GOOD | {"expires": "9999-12-31T23:59-14:00"}), "in the years 1 to 9999 of UTC"),
        (json.dumps(GOOD | {"expires": "9999-12-31T23:59:59.999999+00:00"}), "1 to 9999 of UTC"),
        (json.dumps(GOOD | {"note": 5}), "note is text"),
        (again(GOOD | {"roles": ["view"]}, '"roles": ["admin"]'), "'roles' is there twice"),
        (again(GOOD | {"queues": ["a"]}, '"queues": null'), "'queues' is there twice"),
        (again(GOOD | {"note": {"a": 1}}, '"note": ""'), "'note' is there twice"),
        (f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}", "the id abcd12 is there twice"),
    ],
)
def test_a_line_that_is_no_token_is_told_with_its_number(line: str, why: str) -> None:
    with pytest.raises(BadToken) as caught:
        read_tokens(f"# one\n{line}\n")
    assert why in str(caught.value)
    assert str(caught.value).startswith(f"line {2 + line.count(chr(10))}: ")
    assert WORD not in str(caught.value)


def test_a_token_is_taken_out_and_the_rest_stays_as_it_is() -> None:
    text = f"# ours\n{json.dumps(GOOD)}\n\n{TOKEN.as_line()}\n"
    assert without(text, "abcd12") == f"# ours\n\n{TOKEN.as_line()}\n"
    assert without(text, TOKEN_ID) == f"# ours\n{json.dumps(GOOD)}\n\n"
    assert without(text, "ffff") == text


def test_its_time_is_over_at_the_moment_that_it_says() -> None:
    token = Token(TOKEN_ID, digest_of(WORD), SUBMIT, expires_at=100.0)
    assert [token.is_over(now) for now in (99.9, 100.0, 101.0)] == [False, True, True]
    assert not TOKEN.is_over(1e12)


def test_queues_restrict_submitting_and_working_only() -> None:
    both = frozenset({AccessRole.SUBMIT, AccessRole.WORK})
    check_queues(both, ("a",))
    check_queues(frozenset(AccessRole), None)
    for role in frozenset(AccessRole) - both:
        with pytest.raises(BadToken, match=f"{role.value} is about all of them"):
            check_queues(both | {role}, ("a",))


def test_a_pattern_fits_as_for_files_and_minds_the_case() -> None:
    patterns = patterns_in(["images", "mail.*", "x?"])
    assert [fits(queue, patterns) for queue in ("images", "mail.out", "mail.", "xy")] == [True] * 4
    assert [fits(queue, patterns) for queue in ("Images", "mail", "x", "images2")] == [False] * 4


@given(st.text(max_size=8), st.lists(st.text(alphabet="ab.*?[]!-|(\\^$\n", max_size=6), max_size=4))
def test_a_queue_fits_if_it_fits_one_of_the_patterns_and_of_none_nothing_does(
    queue: str, patterns: list[str]
) -> None:
    for name in (queue, *patterns):
        assert fits(name, patterns) is any(fnmatchcase(name, pattern) for pattern in patterns)


def test_roles_are_read_by_name() -> None:
    assert roles_in(["work", "submit"]) == {AccessRole.SUBMIT, AccessRole.WORK}


def test_secrets_are_left_out_of_a_text_wherever_they_are_in_it() -> None:
    text = f"dial ws://x?t={WORD}, then {WORD}."
    assert redacted(text) == f"dial ws://x?t=creche_{TOKEN_ID}_***, then creche_{TOKEN_ID}_***."
    assert redacted("creche_is fine") == "creche_is fine"
    assert id_in(WORD) == TOKEN_ID


def test_neither_the_word_nor_its_hash_is_in_what_is_printed_of_a_token() -> None:
    assert digest_of(WORD) not in repr(TOKEN)


@pytest.mark.parametrize("word", ["", "two words", "line\nbreak", "é", "x" * 1025, 5, None, b"x"])
def test_what_cannot_be_a_token_is_told_without_saying_it(word: object) -> None:
    why = why_no_credential(word)
    assert why is not None
    assert str(word) not in why or word in ("", 5, None)
