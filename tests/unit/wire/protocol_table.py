"""The table "who may say what, when" of docs/protocol.md, drawn from the live table of moves.

``python -m tests.unit.wire.protocol_table`` prints it, to be pasted between the marks.
"""

from __future__ import annotations

from creche.wire import messages as m
from creche.wire.session import MOVES, Phase, Role

BEGIN, END = "<!-- who may say what: begin -->", "<!-- who may say what: end -->"


def moves_table() -> str:
    """The table as Markdown, a row for each message."""
    lines = ["| kind | message | said by | while | then |", "|---:|---|---|---|---|"]
    for kind, number in m.KIND_OF.items():
        moves = [(role, phase) for role, phase, message in MOVES if message is kind]
        roles = [role.value for role in Role if any(role is who for who, _ in moves)]
        phases = [phase.value for phase in Phase if any(phase is when for _, when in moves)]
        after = {MOVES[role, phase, kind] for role, phase in moves}
        if len(moves) != len(roles) * len(phases) or len(after) != 1:
            raise AssertionError(f"the moves of {kind.__name__} do not fit one row")
        (then,) = after
        lines.append(
            f"| {number} | [{kind.__name__}](#{kind.__name__.lower()}) | {', '.join(roles)} "
            f"| {', '.join(phases)} | {then.value} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(moves_table())
