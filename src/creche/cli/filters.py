"""Filters on the command line: words that are read here, so that what is wrong is said at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from creche.model.filter import Filter, quoted

FilterWords: TypeAlias = Annotated[
    str,
    Parameter(
        name="FILTER",
        show_env_var=False,
        help="Which jobs: `state:failed task:mail.*`, in single quotes.",
    ),
]
"""The terms of a filter, as one word or several."""

IdsOrFilter: TypeAlias = Annotated[
    str,
    Parameter(
        name="FILTER",
        show_env_var=False,
        help="Which jobs: their ids, or `state:failed task:mail.*` in single quotes.",
    ),
]
"""The same, or ids."""


def read_filter(words: Sequence[str], **terms: Sequence[str] | str | None) -> Filter:
    """Return the filter that *words* make, and *terms*, which are options with the names of keys.
    Moments are of the local time, and absolute from here on.

    Raises:
        BadFilter: they make none.
    """
    parts = list(words)
    for key, said in terms.items():
        if said is not None:
            values = [said] if isinstance(said, str) else said
            parts.append(f"{key}:{','.join(map(quoted, values))}")
    return Filter.parse(" ".join(parts), time.time(), None)
