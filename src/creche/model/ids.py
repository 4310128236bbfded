"""Job ids: UUID version 7 (RFC 9562, section 5.7), made by the client.

The first 48 bits are milliseconds since 1970, so that ids made later sort later: a store's index
grows at its end. The rest is random.
"""

from __future__ import annotations

from hashlib import sha256

ID_BYTES = 16


def new_id(now_s: float, random: bytes) -> bytes:
    """Return an id for the moment *now_s* (UTC seconds) from 10 bytes of *random*."""
    ms = int(now_s * 1000) & 0xFFFFFFFFFFFF
    tail = int.from_bytes(random, "big") & 0x0FFF_3FFFFFFFFFFFFFFF
    return (ms << 80 | 0x7000_8000000000000000 | tail).to_bytes(ID_BYTES, "big")


def id_to_text(job_id: bytes) -> str:
    """Return the usual text form, 8-4-4-4-12 in lower case."""
    h = job_id.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def id_from_text(text: str) -> bytes:
    """Return the 16 bytes of an id written with or without hyphens.

    Raises:
        ValueError: *text* is not the text form of an id.
    """
    digits = text.strip().replace("-", "")
    if len(digits) != 2 * ID_BYTES:
        raise ValueError(f"{text!r} is no job id: it has 32 hexadecimal digits")
    try:
        job_id = bytes.fromhex(digits)
    except ValueError:
        job_id = b""
    if len(job_id) != ID_BYTES:  # fromhex skips spaces
        raise ValueError(f"{text!r} is no job id: it has 32 hexadecimal digits")
    return job_id


def made_at(job_id: bytes) -> float:
    """Return the moment (UTC seconds) at which the id says it was made."""
    return int.from_bytes(job_id[:6], "big") / 1000


def id_following(job_id: bytes, payload: bytes) -> bytes:
    """Return the id of the job that is job *job_id* once more, with the arguments *payload*: always
    the same one. Its moment is that of the first."""
    digest = sha256(job_id + sha256(payload).digest()).digest()
    tail = int.from_bytes(digest[:10], "big") & 0x0FFF_3FFFFFFFFFFFFFFF
    return job_id[:6] + (0x7000_8000000000000000 | tail).to_bytes(10, "big")
