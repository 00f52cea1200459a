"""Row formats: how text and dialogues become rows for a kind of model, and what makes batches and losses of them."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.report import describe_dialogues, describe_replies
from data_utils.rows.denoising import DenoisedRows, denoise_blocks
from data_utils.rows.encoder_decoder import collate_halves, encode_halves, pack_halves
from data_utils.rows.packing import Rows, collate_rows, encode_dialogues, pack_dialogues
from data_utils.rows.repeats import RepeatedRows
from errors import InputError
from model_utils.families import start_token_id
from model_utils.shapes import check_packing
from model_utils.tokenizer import find_sentinels
from train_utils.steps.encoder_decoder import join_halves, keeps_pairs_apart
from train_utils.steps.fast_model import make_fast


class TextFormat:
    """Rows of one text, for a decoder: each token is learned after those before it.

    In a share of them, `repeated`, a passage stands twice.
    """

    encode, describe = staticmethod(encode_dialogues), staticmethod(describe_dialogues)
    collate, speed_up = staticmethod(collate_rows), staticmethod(make_fast)

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, repeated: float) -> None:
        self.model, self.tokenizer, self.repeated = model, tokenizer, repeated

    def choose_packing(self) -> Callable[..., Dataset]:
        """Return what packs encoded dialogues to rows; raise InputError where the model would mix them."""
        check_packing(self.model, str(self.model.name_or_path))
        return partial(pack_dialogues, pad_token_id=self.tokenizer.pad_token_id)

    def vary(self, blocks: Rows) -> Rows:
        """Return rows of text to train on, with passages repeated, others in each epoch."""
        return RepeatedRows(blocks, self.repeated) if self.repeated else blocks

    def hide_once(self, blocks: Dataset, beside: Dataset | None = None) -> Dataset:
        """Return rows of text as they are at each evaluation, and beside rows of dialogues."""
        return blocks


class PairFormat:
    """Rows of sources and targets, for an encoder and a decoder: a dialogue so far and its reply, or parts of a text.

    `denoise` says which parts of a text are hidden from the source; one of DENOISERS.
    """

    encode, describe = staticmethod(encode_halves), staticmethod(describe_replies)
    collate, speed_up = staticmethod(collate_halves), staticmethod(join_halves)

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, denoise: str) -> None:
        self.model, self.tokenizer, self.denoise = model, tokenizer, denoise

    def choose_packing(self) -> Callable[..., Dataset]:
        """Return what packs encoded pairs to rows: one each for a model that would mix them."""
        return partial(pack_halves, start_id=start_token_id(self.model.config), together=keeps_pairs_apart(self.model))

    @cached_property
    def hidden(self) -> dict[str, Any]:
        """How parts of text are hidden, as DenoisedRows takes it; InputError where that can't be learned."""
        sentinels = find_sentinels(self.tokenizer)
        if self.denoise != "prefix" and not sentinels:
            raise InputError(f"--denoise {self.denoise}: the tokenizer has no sentinels (<extra_id_0>); choose prefix")
        if not keeps_pairs_apart(self.model):
            kind = self.model.config.model_type
            raise InputError(f"a {kind} model cannot keep packed documents apart; choose T5Gemma, T5, mT5 or UMT5")
        ends = {"end_id": self.tokenizer.eos_token_id, "start_id": start_token_id(self.model.config)}
        return {"how": self.denoise, "sentinels": sentinels, **ends}

    def vary(self, blocks: Rows) -> Rows:
        """Return rows of text to train on, of which other parts are hidden in each epoch."""
        return DenoisedRows(blocks, **self.hidden)

    def hide_once(self, blocks: Dataset, beside: Dataset | None = None) -> Dataset:
        """Return rows of text with the same parts hidden at each evaluation.

        `beside` rows of dialogues as much is hidden as their replies have room for, so that no batch is padded for it.
        """
        if beside is None:
            return denoise_blocks(blocks, **self.hidden)
        source, target = (len(beside[0][name]) for name in ("input_ids", "decoder_input_ids"))
        return denoise_blocks(blocks, **self.hidden, share=target / (source + target))
