"""Makes a GGUF file of a checkpoint, once, and runs it in llama.cpp: tokens in, logits out, several side by side."""

import ctypes
import os
import weakref
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import xxhash
from huggingface_hub.constants import HF_HOME
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chat_utils.runtimes.decoder import PREFILL_TOKENS, PREFIX_CACHE_BYTES
from chat_utils.runtimes.slots import SlotModel
from data_utils.dialogue.format import stop_token_id
from data_utils.readers.files import file_version
from errors import InputError, say_note
from eval_utils.agreement import compare_replies
from files import hash_file, whole
from model_utils.gguf_writer import write_gguf
from model_utils.llama_library import GgufFile, load_library
from model_utils.same_tokens import check_tokens

MIN_WINDOW = 4096  # tokens that a dialogue has room for, whatever they take
FLOAT32 = 0  # ggml's number for the type of keys and values


class LlamaModel(GgufFile, SlotModel):
    """A GGUF file in memory, and room for `slots` sequences of `window` tokens each: tokens in, logits out.

    `exact` computes with keys and values in float32, as the reference does.
    """

    def __init__(self, file: Path, exact: bool = False, max_slots: int = 1) -> None:
        super().__init__(file, vocab_only=False)
        lib = self.library
        self.vocab_size = lib.llama_vocab_n_tokens(self._vocab)
        self.window = lib.llama_model_n_ctx_train(self._model)
        usual = lib.llama_model_n_embd(self._model) // lib.llama_model_n_head(self._model)
        head_width = sum(self._read_number(f"attention.{part}_length") or usual for part in ("key", "value"))
        kv_heads = lib.llama_model_n_head_kv(self._model)
        self.token_bytes = lib.llama_model_n_layer(self._model) * kv_heads * head_width * (4 if exact else 2)
        self.window = min(self.window, max(MIN_WINDOW, PREFIX_CACHE_BYTES // self.token_bytes))  # of 128,000, gigabytes
        self.slots = max(1, min(max_slots, PREFIX_CACHE_BYTES // (self.token_bytes * self.window)))
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = self.window * self.slots, self.slots, False
        params.n_batch, params.n_ubatch = PREFILL_TOKENS * self.slots, PREFILL_TOKENS
        params.n_threads = params.n_threads_batch = torch.get_num_threads()
        params.no_perf = True
        if exact:
            params.type_k = params.type_v = FLOAT32
            params.flash_attn_type = 0
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise InputError(f"{file}: there is not the memory for a window of {self.window} tokens")
        self._memory = lib.llama_get_memory(self._context)
        # As a number: the package makes an object of each pointer, which takes four times as long.
        function = ctypes.cast(lib.llama_get_logits_ith, ctypes.c_void_p).value or 0
        self._find_logits = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(function)
        self.close.detach()
        self.close = weakref.finalize(self, _free, lib, self._model, self._context)
        self._make_batch(params.n_batch)

    def _read_number(self, name: str) -> int | None:
        """Return a number that the file says of its architecture; None where it doesn't."""
        value = ctypes.create_string_buffer(64)
        self.library.llama_model_meta_val_str(self._model, b"general.architecture", value, len(value))
        key = f"{value.value.decode()}.{name}".encode()
        found = self.library.llama_model_meta_val_str(self._model, key, value, len(value))
        return int(value.value) if found > 0 else None

    def _make_batch(self, tokens: int) -> None:
        """Set up the arrays that C reads a batch from, each under a view that numpy writes."""
        lib = self.library
        self._tokens, self._positions = np.zeros(tokens, np.int32), np.zeros(tokens, np.int32)
        self._slot_ids = np.arange(self.slots, dtype=np.int32)
        self._slot_addresses = [self._slot_ids.ctypes.data + 4 * slot for slot in range(self.slots)]
        self._rows: dict[int, np.ndarray] = {}  # views of logits, by address
        self._slot_pointers, self._wants_logits = np.zeros(tokens, np.uintp), np.zeros(tokens, np.int8)
        self._counts = np.ones(tokens, np.int32)
        self._batch = lib.llama_batch()
        for name, array in {
            "token": self._tokens, "pos": self._positions, "n_seq_id": self._counts,
            "seq_id": self._slot_pointers, "logits": self._wants_logits,
        }.items():  # fmt: skip
            kind = dict(lib.llama_batch._fields_)[name]
            setattr(self._batch, name, ctypes.cast(array.ctypes.data, kind))

    def decode(self, parts: list[tuple[int, int, list[int]]]) -> list[np.ndarray]:
        """Compute parts (slot, position of the first, ids) and return the logits (V) after each one's last id.

        The rows are views: the next call overwrites them. Raises RuntimeError where llama.cpp fails.
        """
        end = 0
        last = []
        for slot, position, ids in parts:
            start, end = end, end + len(ids)
            last.append(end - 1)
            if len(ids) == 1:  # each microsecond shows here
                self._tokens[start], self._positions[start] = ids[0], position
                self._slot_pointers[start], self._wants_logits[start] = self._slot_addresses[slot], 1
                continue
            self._tokens[start:end], self._positions[start:end] = ids, range(position, position + len(ids))
            self._slot_pointers[start:end] = self._slot_addresses[slot]
            self._wants_logits[start:end] = 0
            self._wants_logits[end - 1] = 1
        self._batch.n_tokens = end
        if self.library.llama_decode(self._context, self._batch) != 0:
            raise RuntimeError(f"llama.cpp could not compute {end} tokens")
        return [self._logits(place) for place in last]

    def _logits(self, place: int) -> np.ndarray:
        address = self._find_logits(self._context, place)
        if address not in self._rows:
            row = (ctypes.c_float * self.vocab_size).from_address(address)
            self._rows[address] = np.frombuffer(row, np.float32)
        return self._rows[address]

    def cut(self, slot: int, tokens: int) -> None:
        """Forget what a slot holds beyond its first `tokens`."""
        self.library.llama_memory_seq_rm(self._memory, slot, tokens, -1)

    def save(self, slot: int) -> ctypes.Array:
        """Return a copy of what a slot holds."""
        size = self.library.llama_state_seq_get_size(self._context, slot)
        data = (ctypes.c_uint8 * size)()
        self.library.llama_state_seq_get_data(self._context, data, size, slot)
        return data

    def restore(self, slot: int, data: ctypes.Array) -> None:
        """Put a saved copy into a slot."""
        if self.library.llama_state_seq_set_data(self._context, data, len(data), slot) == 0:
            raise RuntimeError("llama.cpp could not take back what it had computed")

    def follow(self, prompt: list[int], reply: list[int]) -> list[int]:
        """Return the likeliest token after the prompt and after each token of `reply` but the last."""
        self.cut(0, 0)
        ids = prompt + reply[:-1]
        places = [*range(0, len(prompt), PREFILL_TOKENS), *range(len(prompt), len(ids) + 1)]
        parts = [(0, start, ids[start:end]) for start, end in pairwise(places)]
        return [int(self.decode([part])[0].argmax()) for part in parts][-len(reply) :]


def _free(library, model, context) -> None:
    library.llama_free(context)
    library.llama_model_free(model)


def find_gguf(
    checkpoint: Path, load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]], quantize: str = "q8_0"
) -> Path:
    """Return a checkpoint's verified GGUF file in this user's cache; made first where there is none of these weights.

    Its name ends in the hash of its bytes, which is compared: a second for each 2 to 5 GB of them. None is taken from
    the checkpoint's own folder: whoever made that could have put any file there.

    Args:
        load: returns the model and its tokenizer; called where the file is made.
    """
    load_library()
    names = ("*.safetensors", "tokenizer*", "chat_template.jinja", "config.json")
    parts = [part for name in names for part in sorted(checkpoint.glob(name))]
    version = xxhash.xxh64(" ".join(file_version(part) for part in parts).encode()).hexdigest()
    place = checkpoint.resolve()
    folder = Path(HF_HOME) / "gguf" / f"{place.name}-{xxhash.xxh64(os.fsencode(place)).hexdigest()}"
    for file in folder.glob(f"{quantize}-{version}-*.gguf"):
        if file.stem.endswith(hash_file(file)):
            return file
        say_note(f"{file} is damaged, and is made anew")
        file.unlink()
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise InputError("the package gguf is not installed: pip install -r requirements/export.txt") from error
    model, tokenizer = load()
    file = folder / f"{quantize}-{version}.gguf"
    with whole(file) as partial:
        for kind in ("f32", quantize):
            write_gguf(model, tokenizer, stop_token_id(tokenizer), partial, kind)
            runtime = LlamaModel(partial, exact=kind == "f32")
            check_tokens(runtime, tokenizer)
            agreement = compare_replies(runtime, model, tokenizer, exact=kind == "f32")
            runtime.close()
        for old in folder.glob(f"{quantize}-*.gguf"):
            old.unlink()
    file = file.rename(file.with_stem(f"{file.stem}-{hash_file(file)}"))
    say_note(f"{file} is made and verified: {agreement}")
    return file
