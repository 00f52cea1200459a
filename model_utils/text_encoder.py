"""Turns a user's text into token ids, in which control tokens that somebody typed are letters.

The one place where this is done, for training and for asking alike. It encodes with a copy of the tokenizer's backend,
so that the caller's tokenizer stays as it is and any thread may encode at any time.
"""

import re
from array import array
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from errors import InputError, first_line, is_panic
from model_utils.tokenizer import is_byte_level

LONG_CHARACTERS = 1_000_000  # the tokenizer needs about 100 bytes a token while it works: longer texts go in pieces
# A place where no byte-level pattern (GPT-2's, Qwen2's and their like) ever joins two pieces to one word: after a
# letter, and before a single space, line end or Chinese mark that a letter follows.
CUT = re.compile(r"(?<=[A-Za-z\u4e00-\u9fff])(?=[ \n，。、][A-Za-z\u4e00-\u9fff])")
_copies: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, Tokenizer]] = WeakKeyDictionary()


def own_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """Return a copy of a tokenizer's backend to which control tokens are letters, made once.

    It is made anew where tokens were added since; None for a tokenizer written in Python, which has no backend.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return None
    size, copy = _copies.get(tokenizer, (0, None))
    if copy is None or size != len(tokenizer):
        copy = Tokenizer.from_str(backend.to_str())
        copy.encode_special_tokens = True
        copy.no_truncation()
        copy.no_padding()
        _copies[tokenizer] = len(tokenizer), copy
    return copy


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool = False) -> list[int]:
    """Return the ids of one text: those of `tokenizer(text, split_special_tokens=True)`.

    Args:
        add_special_tokens: whether the tokenizer puts its own tokens around the text, such as one that begins it.

    Raises InputError where the tokenizer cannot encode it.
    """
    backend = own_backend(tokenizer)
    if backend is None:
        return tokenizer(text, add_special_tokens=add_special_tokens, split_special_tokens=True)["input_ids"]
    if add_special_tokens:
        return encode_batch(backend, [text], add_special_tokens)[0]
    return [token for ids in encode_pieces(backend, list_pieces(tokenizer, text), "I") for token in ids]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], typecode: str = "i") -> list[array]:
    """Return the ids of each text with the end token after it, on all cores (the tokenizer's own threads).

    The ids are those of `encode_text`. `typecode` is that of `array`: i (int32), H (uint16), I (uint32).
    """
    backend = own_backend(tokenizer)
    if backend is None:
        return [array(typecode, [*encode_text(tokenizer, text), tokenizer.eos_token_id]) for text in texts]
    pieces = [list_pieces(tokenizer, text) for text in texts]
    encoded = encode_pieces(backend, [piece for cut in pieces for piece in cut], typecode)
    documents = []
    for cut in pieces:
        ids = next(encoded)
        for _ in cut[1:]:
            ids.extend(next(encoded))
        ids.append(tokenizer.eos_token_id)
        documents.append(ids)
    return documents


def encode_list(tokenizer: PreTrainedTokenizerBase, texts: list[str], add_special_tokens: bool = False) -> list[list]:
    """Return the ids of each text, those of `encode_text`, on all cores."""
    backend = own_backend(tokenizer)
    if backend is None or max(map(len, texts), default=0) > LONG_CHARACTERS:
        return [encode_text(tokenizer, text, add_special_tokens) for text in texts]
    return [ids.tolist() for ids in encode_pieces(backend, texts, "I", add_special_tokens)]


def encode_pieces(
    backend: Tokenizer, pieces: list[str], typecode: str, add_special_tokens: bool = False
) -> Iterator[array]:
    """Yield the ids of each piece, encoded together as far as they are `LONG_CHARACTERS`."""
    start, characters = 0, 0
    for end, piece in enumerate(pieces, 1):
        characters += len(piece)
        if characters >= LONG_CHARACTERS or end == len(pieces):
            for ids in encode_batch(backend, pieces[start:end], add_special_tokens):
                yield array(typecode, ids)
            start, characters = end, 0


def encode_batch(backend: Tokenizer, texts: list[str], add_special_tokens: bool = False) -> list[list[int]]:
    """Return the ids of texts; raise InputError that names the first one on which the tokenizer's code gives up."""
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)]
    except BaseException as error:
        if not is_panic(error):
            raise
        reason = first_line(error)
    if len(texts) > 1:
        return [ids for text in texts for ids in encode_batch(backend, [text], add_special_tokens)]
    where = f"the text of {len(texts[0]):,} characters that begins with {texts[0][:40]!r}"
    raise InputError(f"{where}: the tokenizer cannot encode it ({reason}); put line ends in it, or leave it out")


def list_pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return a text in pieces that may be encoded one by one, most often itself alone."""
    return cut_text(text) if len(text) > LONG_CHARACTERS and is_byte_level(tokenizer) else [text]


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
