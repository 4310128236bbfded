"""What a queue can be named: asked wherever one is named."""

from __future__ import annotations

MAX_NAME = 200
"""Characters in the name of a queue, as in that of a task."""


def why_no_queue(name: object) -> str | None:
    """Return why no queue can be named so, as a sentence; None if one can. Lists of queues have
    spaces and commas between them, and a terminal would obey control characters."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        least = f"1 to {MAX_NAME} printable characters"
        return f"a queue's name is a text of {least}, and not {name!r:.80}"
    if "," in name or any(character.isspace() for character in name):
        return f"a queue's name has no spaces and no commas, as {name!r:.80} has"
    return None
