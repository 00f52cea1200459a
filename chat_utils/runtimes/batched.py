"""Continuous batching with transformers' own forward: replies join and leave a batch whose shape stays.

What transformers calls by this name (`ContinuousBatchingManager`, 5.23) is not what replies here need: one generator
and one `do_sample` serve all requests (`model_runner.py`, `_sample`), so that no request has a seed and none is greedy
beside others; a repetition penalty is dropped (`RepetitionPenaltyLogitsProcessor.supports_continuous_batching`), since
processors see the last token alone; and beginnings are shared by whole pages. So the cache here is one with a row for
each slot, and the logits go to the same `Sampler` as those of every engine.

A step computes one token for every slot, also for those that are idle: the matrices always have as many rows, and what
a reply gets does not depend on who shares its step. A prompt is computed by itself, in parts, between such steps. That
this holds bit for bit is tested on a CPU, in all three precisions; on a GPU nothing here has run yet.

Shapes: S slots, T tokens, K key-value heads, C places of a slot, L of them that a step reads, E width of a head.
"""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from chat_utils.runtimes.decoder import SAME_LOGITS, has_same_logits
from chat_utils.runtimes.network import has_fixed_angles
from chat_utils.runtimes.slots import SlotDecoder, SlotModel
from model_utils.families import family_of

BLOCK_TOKENS = 256  # a slot grows, and a step reads, by whole blocks


def load_batched_decoder(model: PreTrainedModel, slots: int) -> SlotDecoder | None:
    """Return a decoder for so many replies in one step; None for a model whose logits would come out different."""
    if not can_batch(model):
        return None
    batched = BatchedModel(model, slots)
    is_same = has_same_logits(model, lambda start, ids: batched.decode([(slots - 1, start, ids)])[0])
    return SlotDecoder(batched, shares_all=True) if is_same else None


def can_batch(model: PreTrainedModel) -> bool:
    """Tell whether a model's attention can be told by masks alone what each row sees, and positions don't mix rows."""
    layers = DynamicCache(config=model.config).layers
    return (
        family_of(model.config).batched
        and model.dtype in SAME_LOGITS
        and model.config._attn_implementation in ("sdpa", "eager")
        and len(layers) > 0
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
        and hasattr(model.config, "max_position_embeddings")
        and has_fixed_angles(model.config)
    )


class Step:
    """Which rows and places of the slots a forward writes and reads."""

    slots: torch.Tensor  # (S or 1, 1)
    places: torch.Tensor  # (S or 1, T): where the new keys and values go
    rows: slice
    length: int


class SlotLayer(CacheLayerMixin):
    """The keys and values of one layer: (S, K, C + 1, E) each; what idle rows compute goes to the last place."""

    is_sliding = False
    keys: Any  # tensors from the first ones on
    values: Any

    def __init__(self, step: Step, slots: int, capacity: int) -> None:
        super().__init__()
        self._step, self._slots, self._capacity = step, slots, capacity

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make room in the form of the first keys and values (rows, K, T, E)."""
        self.keys, self.values = (
            states.new_zeros(self._slots, states.shape[1], self._capacity + 1, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple:
        """Write new keys and values (rows, K, T, E) each at its own place; return those that the step reads."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        step = self._step
        for memory, states in ((self.keys, key_states), (self.values, value_states)):
            memory[step.slots, :, step.places] = states.transpose(1, 2)
        return self.keys[step.rows, :, : step.length], self.values[step.rows, :, : step.length]

    def reserve(self, capacity: int) -> None:
        """Make room for so many tokens in every slot."""
        more = (0, 0, 0, capacity + 1 - self._capacity)  # on the last axis but one
        self.keys, self.values = (pad(old[:, :, : self._capacity], more) for old in (self.keys, self.values))
        self._capacity = capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return what a mask made by transformers would need; ours are given."""
        return self._step.length, 0

    def get_seq_length(self) -> int:
        """Return 0: each row has a length of its own, and positions are given."""
        return 0

    def get_max_length(self) -> int:
        """Return how many tokens a slot has room for now."""
        return self._capacity


class BatchedModel(SlotModel):
    """A transformers model on any device, with room for `slots` dialogues that grows with the longest."""

    def __init__(self, model: PreTrainedModel, slots: int) -> None:
        self.model, self.slots = model, slots
        self.window = model.config.max_position_embeddings
        self._capacity, self._lengths, self._step = BLOCK_TOKENS, [0] * slots, Step()
        kinds = DynamicCache(config=model.config).layers
        self._layers = [SlotLayer(self._step, slots, self._capacity) for _ in kinds]
        self._cache = Cache(layers=[*self._layers])
        self._sliding_windows = {getattr(kind, "sliding_window", None) for kind in kinds}
        self._all_slots = torch.arange(slots, device=model.device)[:, None]
        self.decode([(0, 0, [0])])  # makes the room
        first = self._layers[0]
        place = first.keys[0, :, 0].numel() + first.values[0, :, 0].numel()
        self.token_bytes = len(kinds) * place * model.dtype.itemsize

    @torch.inference_mode()
    def decode(self, parts: list[tuple[int, int, list[int]]]) -> list[np.ndarray]:
        """Compute all parts of one token in one forward and each longer one in its own; see SlotModel."""
        self._reserve(max(start + len(ids) for _, start, ids in parts))
        logits = {}
        for slot, start, ids in parts:
            if len(ids) > 1:
                positions = torch.arange(start, start + len(ids), device=self.model.device)[None]
                logits[slot] = self._forward(slice(slot, slot + 1), [ids], positions, positions, start + len(ids))[0]
        single = [(slot, start, ids[0]) for slot, start, ids in parts if len(ids) == 1]
        if single:
            rows, places = np.zeros((2, self.slots, 1), dtype=np.int64), [self._capacity] * self.slots
            for slot, start, token in single:
                rows[:, slot, 0] = token, start
                places[slot] = start
            ids, positions = torch.from_numpy(rows).to(self.model.device)
            places = torch.tensor(places, device=self.model.device)[:, None]
            longest = max(start for _, start, _ in single) + 1
            found = self._forward(slice(0, self.slots), ids, positions, places, longest)
            logits |= {slot: found[slot] for slot, _, _ in single}
        for slot, start, ids in parts:
            self._lengths[slot] = start + len(ids)
        return [logits[slot] for slot, _, _ in parts]

    def _forward(
        self, rows: slice, ids: torch.Tensor | list, positions: torch.Tensor, places: torch.Tensor, longest: int
    ) -> np.ndarray:
        """Compute ids (rows, T) at their positions, and write to places; return the logits (rows, V) after the last."""
        step, device = self._step, self.model.device
        step.rows, step.slots, step.places = rows, self._all_slots[rows], places
        step.length = -(-longest // BLOCK_TOKENS) * BLOCK_TOKENS
        output = self.model(
            input_ids=torch.as_tensor(ids, device=device), position_ids=positions, past_key_values=self._cache,
            attention_mask=self._make_mask(positions, step.length), use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return output.logits[:, -1].float().cpu().numpy()

    def _make_mask(self, positions: torch.Tensor, length: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return what is added to the scores (rows, 1, T, L); one for each kind of layer where there are two."""
        dtype = self.model.dtype
        distance = positions[:, None, :, None] - torch.arange(length, device=positions.device)
        masks = {}
        for window in self._sliding_windows:
            hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
            mask = torch.zeros_like(distance, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)
            masks["full_attention" if window is None else "sliding_attention"] = mask
        return masks if len(masks) > 1 else mask

    def _reserve(self, tokens: int) -> None:
        """Make room for so many tokens in every slot."""
        if tokens > self._capacity:
            most = -(-self.window // BLOCK_TOKENS) * BLOCK_TOKENS
            capacity = min(max(2 * self._capacity, -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS), most)
            for layer in self._layers:
                layer.reserve(capacity)
            self._capacity = capacity

    def cut(self, slot: int, tokens: int) -> None:
        """Forget what a slot holds beyond its first `tokens`: it is overwritten, and no mask shows it."""
        self._lengths[slot] = min(self._lengths[slot], tokens)

    def save(self, slot: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return a copy of what a slot holds, keys and values (K, T, E) of each layer."""
        end = self._lengths[slot]
        return [(layer.keys[slot, :, :end].clone(), layer.values[slot, :, :end].clone()) for layer in self._layers]

    @torch.inference_mode()
    def restore(self, slot: int, data: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Put a saved copy into a slot."""
        self._lengths[slot] = data[0][0].shape[1]
        for layer, (keys, values) in zip(self._layers, data, strict=True):
            layer.keys[slot, :, : keys.shape[1]] = keys
            layer.values[slot, :, : values.shape[1]] = values
