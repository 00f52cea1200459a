"""Answers by a checkpoint, for every surface: builds the prompt, keeps the window, chooses the runtime.

from chat_utils.engine import load_engine
engine = load_engine("ckpt_chat")
for piece in engine.reply([{"role": "user", "content": "你好"}]):
    print(piece, end="", flush=True)
"""

import gc
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel

from chat_utils.messages import clean_dialogue, clean_message, longest_bytes, replace_surrogates
from chat_utils.reply import Reply, Stats
from chat_utils.runtimes.batched import load_batched_decoder
from chat_utils.runtimes.decoder import Decoder, TransformersDecoder
from chat_utils.runtimes.numpy_decoder import load_numpy_decoder
from chat_utils.runtimes.prefix_cache import count_shared
from chat_utils.runtimes.slots import SlotDecoder
from chat_utils.sampling import ENGINES, PRECISIONS, SLOTS, Sampling
from chat_utils.streaming import TextStream
from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.window import encode_prompt
from errors import InputError, explained, first_line
from eval_utils.scorecard import MAX_TOKENS, Answer, Dialogue
from model_utils.checkpoint import load_checkpoint, load_tokenizer, read_stop_ids
from model_utils.finding import NO_TEMPLATE, find_checkpoint, find_gguf_file
from model_utils.llama_library import has_library
from model_utils.text_encoder import encode_text
from model_utils.tokenizer import add_chat_tokens


def choose_decoder(model: PreTrainedModel, kind: str, slots: int) -> Decoder:
    """Return what computes a model's replies; with "auto" the fastest that gives its logits."""
    decoder = None
    if kind == "auto" and model.device.type == "cpu":
        decoder = load_numpy_decoder(model)
    elif kind in ("auto", "batched"):
        try:
            decoder = load_batched_decoder(model, slots)
        except RuntimeError as error:  # the device lacks an operation
            if kind == "batched":
                raise InputError(f"--engine batched: does not run here: {first_line(error)}") from error
        if decoder is None and kind == "batched":
            raise InputError(f"--engine batched: {model.config.model_type} models are not batched; leave it out")
    return decoder or TransformersDecoder(model)


class Engine:
    """One loaded checkpoint; replies of any number may be open at once, from any thread.

    Raises InputError where the checkpoint cannot be loaded.
    """

    def __init__(
        self, path: str, kind: str = "auto", device: str | None = None, dtype: str = "auto", slots: int = SLOTS
    ) -> None:
        self.name = Path(path).stem if Path(path).is_file() else Path(path).resolve().name
        file = find_gguf_file(path)
        if file is None:
            find_checkpoint(path)
        self.tokenizer = load_tokenizer(path)
        has_own_template = self.tokenizer.chat_template is not None
        if kind == "llama.cpp" or (kind == dtype == "auto" and file and has_own_template and has_library()):
            if dtype != "auto":
                raise InputError(f"--dtype {dtype}: llama.cpp has a precision of its own; leave it out")
            from chat_utils.runtimes.llama_cpp import LlamaModel, find_gguf

            if file is None or not has_own_template:  # made once
                file = find_gguf(Path(find_checkpoint(path)), lambda: load_checkpoint(path))
            self.decoder: Decoder = SlotDecoder(LlamaModel(file, max_slots=slots))
            add_chat_tokens(self.tokenizer)
        else:
            device = device or str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
            if device == "cpu" and dtype == "float16":
                raise InputError("--dtype float16: on a CPU it is slower than float32 in prompts; choose bfloat16")
            model, self.tokenizer = load_checkpoint(path, device, dtype)
            self.decoder = choose_decoder(model, kind, slots)
        with explained(path, NO_TEMPLATE):
            self.stop_ids = {stop_token_id(self.tokenizer), self.tokenizer.eos_token_id, *read_stop_ids(path)}

    @property
    def window(self) -> int:
        """Tokens that the model sees at once, its reply among them."""
        return self.decoder.window

    def reply(self, dialogue: list[dict], sampling: Sampling | None = None) -> Reply:
        """Answer a dialogue that ends with the user's turn, its words cleaned as those are that the model learned from.

        Where the window is full, whole oldest turns drop (`stats.dropped_messages`), never the system turn. Raises
        DialogueError for what is no such dialogue, and where the last message or the system turn is too long.
        """
        started = time.perf_counter()
        dialogue, dropped = clean_dialogue(dialogue, self.window)
        return self.reply_cleaned(dialogue, sampling, dropped=dropped, started=started)

    def reply_cleaned(
        self,
        dialogue: list[dict],
        sampling: Sampling | None = None,
        *,
        dropped: int = 0,
        cache_group: str | None = None,
        started: float | None = None,
    ) -> Reply:
        """Answer a dialogue that `clean_dialogue` returned, with the number of messages `dropped` there.

        `cache_group`: whose KV states the reply may go on with (runtimes/prefix_cache.py); None: all of this process.
        `started`: when it was asked for, by time.perf_counter; None: now.
        """
        started = started or time.perf_counter()
        sampling = sampling or Sampling()
        ids, more = encode_prompt(self.tokenizer, dialogue, self.window, self._reserve(sampling))
        return self._open(ids, sampling, Stats(dropped_messages=dropped + more), cache_group, started)

    def complete(self, text: str, sampling: Sampling | None = None, cache_group: str | None = None) -> Reply:
        """Go on with a text as it stands, without the chat template; what is in it is never a control token.

        Where the window is full, the text's beginning drops. Raises DialogueError where the text is empty.
        """
        started = time.perf_counter()
        sampling = sampling or Sampling()
        text = replace_surrogates(text[-longest_bytes(self.window) :])
        ids = encode_text(self.tokenizer, text, add_special_tokens=True)
        if not ids:
            raise DialogueError("there is no text to go on with")
        return self._open(ids[-(self.window - self._reserve(sampling)) :], sampling, Stats(), cache_group, started)

    def share_system(self, text: str) -> None:
        """Let all callers go on with the KV states of a system prompt, or of what the template writes without one."""
        system = [{"role": "system", "content": text}] if text else []
        asked = [[*system, {"role": "user", "content": letter}] for letter in "aZ"]
        one, other = (encode_prompt(self.tokenizer, dialogue, self.window)[0] for dialogue in asked)
        self.decoder.prefix_cache.public_ids = one[: count_shared(one, other)]

    def check_system(self, text: str, sampling: Sampling | None = None) -> str:
        """Return a system prompt cleaned; raises DialogueError where no message would have room beside it."""
        text = clean_message(text, "system", self.window)
        if text:
            shortest = [{"role": "system", "content": text}, {"role": "user", "content": "."}]
            encode_prompt(self.tokenizer, shortest, self.window, self._reserve(sampling or Sampling()))
        return text

    def _reserve(self, sampling: Sampling) -> int:
        """Return how many tokens of the window no prompt takes: those of the longest reply, half of them at most."""
        return min(sampling.max_new_tokens, self.window // 2)

    def _open(self, ids: list[int], sampling: Sampling, stats: Stats, cache_group: str | None, started: float) -> Reply:
        stats.prompt_tokens, stats.seconds = len(ids), time.perf_counter() - started
        text = TextStream(self.tokenizer, sampling.stop)
        room = min(sampling.max_new_tokens, self.window - len(ids))  # all that the prompt leaves
        return Reply(self.decoder.open(ids, sampling, self.stop_ids, cache_group), text, room, stats)


def freeze_loaded() -> None:
    """Free the engines that nobody holds any more, and take what is left out of the garbage collector's sight.

    To look through it would cost a reply a fifth of a second now and then.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def load_engine(
    path: str, kind: str = "auto", device: str | None = None, dtype: str = "auto", slots: int = SLOTS
) -> Engine:
    """Load a checkpoint to answer by one of ENGINES ("auto": the fastest there is for it), in one of PRECISIONS.

    `slots`: replies that "batched" and "llama.cpp" compute in one step; more open ones take turns.
    """
    for name, value, values in (("engine", kind, ENGINES), ("dtype", dtype, PRECISIONS)):
        if value not in values:
            raise InputError(f"--{name} {value}: choose one of {', '.join(values)}")
    return Engine(path, kind, device, dtype, slots)


def answer_alone(engine: Engine, asked: list[tuple[Dialogue, int]]) -> list[Answer]:
    """Return an engine's answers to dialogues, each with its seed, one after the other, with what each took."""
    answers = []
    for dialogue, seed in asked:
        reply = engine.reply(dialogue, Sampling(max_new_tokens=MAX_TOKENS, seed=seed))
        text, stats = "".join(reply).strip(), reply.stats
        took = (stats.reply_tokens, stats.seconds, stats.first_token_seconds)
        answers.append(Answer(text, reply.finish_reason == "stop", *took))
    return answers
