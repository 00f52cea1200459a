"""A checkpoint that answers: prompt, window, key-value cache between turns, sampling, streaming of whole characters.

engine = Engine("ckpt_chat")
for piece in engine.reply([{"role": "user", "content": "你好"}]):
    print(piece, end="", flush=True)
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers.decoders import DecodeStream
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from data_utils.dialogue import encode_prompt, stop_token_id
from data_utils.tokenizer import add_chat_tokens
from errors import InputError


@dataclass
class Sampling:
    """How a reply is drawn from the model's probabilities."""

    temperature: float = field(default=0.4, metadata={"help": "0: always the most likely token; higher: more varied"})
    top_p: float = field(default=0.9, metadata={"help": "Draw from the most likely tokens that hold this probability"})
    top_k: int = field(default=0, metadata={"help": "Draw from this many most likely tokens; 0: no limit"})
    repetition_penalty: float = field(default=1.1, metadata={"help": "Above 1: tokens of the dialogue come up less"})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest reply in tokens"})
    seed: int | None = field(default=None, metadata={"help": "Same seed and dialogue: same reply"})


@dataclass
class Stats:
    """What the last reply took; `stopped` tells whether it ended by the stop token."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    reply_tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    stopped: bool = False
    dropped_messages: int = 0

    def __str__(self) -> str:
        decode_seconds = max(self.seconds - self.first_token_seconds, 1e-9)
        return (
            f"first token after {self.first_token_seconds * 1000:.0f} ms, "
            f"{max(self.reply_tokens - 1, 0) / decode_seconds:.0f} tokens a second, {self.reply_tokens} tokens, "
            f"{self.cached_tokens} of {self.prompt_tokens} prompt tokens from the cache"
        )


def check_checkpoint(path: str) -> None:
    """Raise InputError where `path` is no folder with a whole model."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{path}: no such checkpoint; train one with train.py and finetune_dialogue.py")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{path}: holds no model yet (model.safetensors is missing); did its training finish?")


class Engine:
    """One loaded checkpoint and the cache of its last dialogue.

    `stats` tells about the last reply. Raises InputError where the checkpoint cannot be loaded.
    """

    def __init__(self, path: str, device: str | None = None) -> None:
        check_checkpoint(path)
        device = device or (
            "cpu" if not torch.accelerator.is_available() else str(torch.accelerator.current_accelerator())
        )
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            dtype = torch.float32 if device == "cpu" else "auto"
            self.model, loading = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
            self.model.to(device).eval()
            if loading["missing_keys"]:
                raise ValueError(f"{len(loading['missing_keys'])} weights are missing")
            if add_chat_tokens(self.tokenizer):
                self.model.resize_token_embeddings(len(self.tokenizer))
            stop_id = stop_token_id(self.tokenizer)
        except Exception as error:  # transformers and safetensors raise many kinds for a broken folder
            raise InputError(f"{path}: cannot be loaded: {(str(error).splitlines() or [repr(error)])[0]}") from error
        if len(self.tokenizer) > self.model.get_input_embeddings().num_embeddings:
            raise InputError(f"{path}: its tokenizer has more tokens than its model; they don't belong together")
        self.stop_ids = {stop_id, self.tokenizer.eos_token_id} - {None}
        self.window = getattr(self.model.config, "max_position_embeddings", 2048)
        self.stats = Stats()
        self._cache: DynamicCache | None = None
        self._cached_ids: list[int] = []

    def reply(self, dialogue: list[dict], sampling: Sampling | None = None) -> Iterator[str]:
        """Stream the assistant's reply to a dialogue that ends with the user's turn, in pieces of whole characters.

        Stop iterating to cancel. Where the window is full, whole oldest turns drop (`stats.dropped_messages`), never
        the system turn. Raises DialogueError where the last message alone is longer than the window.
        """
        sampling = sampling or Sampling()
        room = min(sampling.max_new_tokens, self.window // 2)
        ids, dropped = encode_prompt(self.tokenizer, dialogue, self.window - room)
        self.stats = Stats(prompt_tokens=len(ids), dropped_messages=dropped)
        processors = make_processors(sampling)
        generator = torch.Generator().manual_seed(sampling.seed) if sampling.seed is not None else None
        stream = DecodeStream(skip_special_tokens=True)
        said = ""
        started = time.perf_counter()
        history = list(ids)
        pending = self._reuse_cache(ids)
        for _ in range(room):
            logits = self._forward(pending)
            token = draw_token(logits, history, processors, sampling.temperature == 0, generator)
            self.stats.reply_tokens += 1
            self.stats.seconds = time.perf_counter() - started
            if self.stats.reply_tokens == 1:
                self.stats.first_token_seconds = self.stats.seconds
            if token in self.stop_ids:
                self.stats.stopped = True
                return
            history.append(token)
            pending = [token]
            # A character of several tokens comes out when its last byte is there.
            piece = stream.step(self.tokenizer.backend_tokenizer, token)
            if piece:
                said += piece
                yield piece
        # Cut off within a character: what stands before it in the same token is whole.
        rest = self.tokenizer.decode(history[len(ids) :], skip_special_tokens=True)[len(said) :].rstrip("\ufffd")
        if rest:
            yield rest

    def _reuse_cache(self, ids: list[int]) -> list[int]:
        """Keep of the cache what begins alike, and return the ids that are still to be computed (one at least)."""
        shared = 0
        for old, new in zip(self._cached_ids, ids[:-1], strict=False):
            if old != new:
                break
            shared += 1
        # A sliding window forgets what a shorter beginning would need.
        if self._cache is None or shared == 0 or (any(self._cache.is_sliding) and shared < len(self._cached_ids)):
            self._cache, shared = DynamicCache(config=self.model.config), 0
        elif shared < len(self._cached_ids):
            self._cache.crop(shared - len(self._cached_ids))  # negative: how many to remove
        self._cached_ids = self._cached_ids[:shared]
        self.stats.cached_tokens = shared
        return ids[shared:]

    @torch.inference_mode()
    def _forward(self, ids: list[int]) -> torch.Tensor:
        """Feed ids after the cached ones and return the logits (V) that follow the last."""
        input_ids = torch.tensor([ids], device=self.model.device)
        cache, self._cache = self._cache, None  # what an interrupt leaves half computed is not used again
        output = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._cached_ids += ids
        self._cache = cache
        return output.logits[0, -1].float().cpu()


def make_processors(sampling: Sampling) -> LogitsProcessorList:
    """Return transformers' processors for these settings, in the order that `generate` uses."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature not in (0, 1):
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.temperature != 0 and sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.temperature != 0 and sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return processors


def draw_token(
    logits: torch.Tensor,
    history: list[int],
    processors: LogitsProcessorList,
    greedy: bool,
    generator: torch.Generator | None,
) -> int:
    """Choose the next id from logits (V) after the ids of `history`."""
    scores = processors(torch.tensor([history]), logits[None])
    if greedy:
        return int(scores.argmax())
    return int(torch.multinomial(torch.softmax(scores, -1), 1, generator=generator))
