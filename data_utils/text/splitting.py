"""Splits documents by a hash of their text as it was read, so that no cleaning changes what is held out."""

import hashlib
from collections.abc import Mapping

PRINTED = bytes(range(32, 127))
SHARE = "hash_share"  # column of a document: where it lies from 0 to 1; held out are those below --eval_fraction


def hash_share(text: str) -> float:
    """Return a number from 0 to 1 that depends on the text alone, spaces aside."""
    digest = hashlib.blake2b(encode_squeezed(text), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def encode_squeezed(text: str) -> bytes:
    """Return the bytes of a text with one space for any spaces and line ends, without those at its ends.

    >>> encode_squeezed("one\\ntwo"), encode_squeezed(" one\\t two ")
    (b'one two', b'one two')
    """
    if text.isascii():
        data = text.encode().replace(b"\n", b" ")
        # Single spaces and no other ones: four times as fast as to part the words.
        if b"  " not in data and data == data.strip() and not data.translate(None, PRINTED):
            return data
    return " ".join(text.split()).encode(errors="ignore")


def share_of(row: Mapping) -> float:
    """Return where a document lies in the split: as it says, or by its text (a corpus prepared before it did)."""
    share = row.get(SHARE)
    return hash_share(row["text"]) if share is None else share
