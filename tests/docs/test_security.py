"""`docs/security.md` is true where it can be compared: the table of roles."""

from __future__ import annotations

import re
from pathlib import Path

from creche.model.access import AccessRole
from creche.wire import access as table
from creche.wire.session import Role

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

# What every peer says that is let in; what it may ask and follow is a row each.
OF_ALL = {"Goodbye", "Ping", "Pong", "Piece", "Ask", "Subscribe", "Unsubscribe"}


def names_of(roles: frozenset[AccessRole]) -> list[str]:
    return [role.value for role in AccessRole if role in roles]


def test_the_table_of_roles_is_the_one_in_force() -> None:
    _, _, rest = TEXT.partition("| | view | submit | work | operate | admin |\n")
    said = {}
    for line in rest.partition("\n\n")[0].splitlines()[1:]:
        what, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        may = [role.value for role, cell in zip(AccessRole, cells, strict=True) if cell]
        said.update(dict.fromkeys(re.findall(r"`(.+?)`", what), may))
    assert said == {
        **{
            kind.__name__: names_of(roles)
            for kind, roles in table.MESSAGES.items()
            if kind.__name__ not in OF_ALL
        },
        **{name: names_of(roles) for name, roles in table.QUESTIONS.items()},
        **{name: names_of(roles) for name, roles in table.TOPICS.items()},
        "a worker": names_of(table.PEERS[Role.WORKER]),
    }
    assert all(
        table.MESSAGES[kind] == table.EVERY for kind in table.MESSAGES if kind.__name__ in OF_ALL
    )
