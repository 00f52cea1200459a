"""Which documents are held out: by a hash of the text as it was read, so that no cleaning changes the split."""

import hashlib
from collections.abc import Mapping

SHARE = "hash_share"  # column of a document: where it lies from 0 to 1; held out are those below --eval_fraction


def hash_share(text: str) -> float:
    """Return a number from 0 to 1 that depends on the text alone, spaces aside."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(errors="ignore"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def share_of(row: Mapping) -> float:
    """Return where a document lies in the split: as it says, or by its text (a corpus prepared before it did)."""
    share = row.get(SHARE)
    return hash_share(row["text"]) if share is None else share
