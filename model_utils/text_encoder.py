"""Texts to ids as fast as the tokenizer alone: no masks, no offsets, a text's control tokens as letters."""

import re
from array import array
from collections.abc import Iterator

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from model_utils.tokenizer import is_byte_level

LONG_CHARACTERS = 1_000_000  # the tokenizer needs about 100 bytes a token while it works: longer texts go in pieces
# A place where no byte-level pattern (GPT-2's, Qwen2's and their like) ever joins two pieces to one word: after a
# letter, and before a single space, line end or Chinese mark that a letter follows.
CUT = re.compile(r"(?<=[A-Za-z\u4e00-\u9fff])(?=[ \n，。、][A-Za-z\u4e00-\u9fff])")


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], typecode: str = "i") -> list[array]:
    """Return the ids of each text with the end token after it, on all cores (the tokenizer's own threads).

    The ids are those of `tokenizer(text, add_special_tokens=False, split_special_tokens=True)`, to which a control
    token that stands in a text is letters. `typecode` is that of `array`: i (int32), H (uint16), I (uint32).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):  # a tokenizer written in Python
        ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
        return [array(typecode, [*text_ids, tokenizer.eos_token_id]) for text_ids in ids]
    backend.encode_special_tokens = True
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    may_cut = is_byte_level(tokenizer)
    pieces = [cut_text(text) if may_cut and len(text) > LONG_CHARACTERS else [text] for text in texts]
    encoded = encode_pieces(backend, [piece for cut in pieces for piece in cut], typecode)
    documents = []
    for cut in pieces:
        ids = next(encoded)
        for _ in cut[1:]:
            ids.extend(next(encoded))
        ids.append(tokenizer.eos_token_id)
        documents.append(ids)
    return documents


def encode_pieces(backend: Tokenizer, pieces: list[str], typecode: str) -> Iterator[array]:
    """Yield the ids of each piece, encoded together as far as they are `LONG_CHARACTERS`."""
    start, characters = 0, 0
    for end, piece in enumerate(pieces, 1):
        characters += len(piece)
        if characters >= LONG_CHARACTERS or end == len(pieces):
            for encoding in backend.encode_batch_fast(pieces[start:end], add_special_tokens=False):
                yield array(typecode, encoding.ids)
            start, characters = end, 0


def cut_text(text: str, size: int = LONG_CHARACTERS) -> list[str]:
    """Cut a text where its tokens are cut anyway, into pieces of about `size` characters; joined, they are the text.

    >>> cut_text("one two three four", 6)
    ['one two', ' three', ' four']
    """
    pieces, start = [], 0
    while len(text) - start > size and (cut := CUT.search(text, start + size)):
        pieces.append(text[start : cut.start()])
        start = cut.start()
    return [*pieces, text[start:]]
