"""Decodes fast on a CPU: a transformer's forward in plain NumPy, with less overhead than PyTorch's.

At these sizes a token costs dispatch rather than arithmetic: some 100 small operations at 1 to 15 microseconds each in
PyTorch. NumPy needs half a microsecond, and nothing has to be compiled, cached or installed.

Shapes: N rows (tokens of one or several replies), D width, H query heads, K key-value heads, E width of a head.
"""

import numpy as np
from transformers import PreTrainedModel

from chat_utils.runtimes.decoder import TRIAL_TOKENS, Decoder, Session, has_same_logits
from chat_utils.runtimes.network import HalfLinear, Network, read_network
from chat_utils.runtimes.prefix_cache import SMALLEST_STATE_TOKENS


def load_numpy_decoder(model: PreTrainedModel) -> "NumpyDecoder | None":
    """Return the fast decoder of a model; None where its class is not known or its logits come out different."""
    network = read_network(model)
    if network is None:
        return None
    state = State(network, TRIAL_TOKENS)
    is_same = has_same_logits(model, lambda start, ids: compute_logits(network, [state], [start], [ids])[0])
    return NumpyDecoder(network) if is_same else None


class State:
    """Keys and values of one dialogue: (layers, 2, K, capacity, E)."""

    def __init__(self, network: Network, capacity: int) -> None:
        shape = (len(network.layers), 2, network.kv_heads, capacity, network.head_width)
        self.network, self.memory = network, np.empty(shape, dtype=np.float32)

    @property
    def least_room(self) -> int:
        """The state's capacity: what was longer once stays as large."""
        return self.memory.shape[3]

    def cut(self, tokens: int, length: int) -> "State":
        """Return the state as it is: what lies behind is overwritten."""
        return self

    def copy(self, tokens: int) -> "State":
        """Return a small state with copies of the first `tokens`."""
        copy = State(self.network, min(max(tokens, SMALLEST_STATE_TOKENS), self.network.window))
        copy.memory[:, :, :, :tokens] = self.memory[:, :, :, :tokens]
        return copy

    def reserve(self, tokens: int, window: int) -> None:
        """Make room for so many tokens in all."""
        capacity = self.memory.shape[3]
        if tokens > capacity:
            shape = list(self.memory.shape)
            shape[3] = min(max(2 * capacity, tokens), window)
            grown = np.empty(shape, dtype=np.float32)
            grown[:, :, :, :capacity] = self.memory
            self.memory = grown


class NumpyDecoder(Decoder):
    """Decodes with a Network on the CPU, several replies in one step."""

    step_limit = 16

    def __init__(self, network: Network) -> None:
        self.network = network
        self.one_thread = isinstance(network.head, HalfLinear)  # NumPy's threads are one pool, whoever calls
        state = State(network, 1)
        super().__init__(network.window, state.memory.nbytes)

    def new_state(self) -> State:
        """Return the state of an empty beginning."""
        return State(self.network, min(SMALLEST_STATE_TOKENS, self.window))

    def feed(self, sessions: list[Session], parts: list[list[int]]) -> list[np.ndarray]:
        """Compute the parts of several replies in one step; see Decoder."""
        starts = [session.computed for session in sessions]
        for session, start, part in zip(sessions, starts, parts, strict=True):
            session.state.reserve(start + len(part), self.window)
        return list(compute_logits(self.network, [session.state for session in sessions], starts, parts))


def compute_logits(network: Network, states: list[State], starts: list[int], parts: list[list[int]]) -> np.ndarray:
    """Compute each part of ids after the `starts` tokens of its state; return the logits (parts, V) of their ends."""
    places = np.concatenate([np.arange(start, start + len(part)) for start, part in zip(starts, parts, strict=True)])
    ends = np.cumsum([len(part) for part in parts])
    x = network.embedding[np.concatenate(parts)]
    if network.positions is not None:
        x = x + network.positions[places]
    rotation = None if network.rotation is None else network.rotation[places]
    turned = network.heads + network.kv_heads
    for number, layer in enumerate(network.layers):
        qkv = layer.qkv(layer.norm(x)).reshape(len(x), turned + network.kv_heads, -1)
        qk, v = qkv[:, :turned], qkv[:, turned:]
        if layer.qk_norm is not None:
            qk = layer.qk_norm(qk)
        if rotation is not None:
            qk = (np.ascontiguousarray(qk).view(np.complex64) * rotation).view(np.float32)
        attended = []
        for state, start, end, part in zip(states, starts, ends, parts, strict=True):
            rows = slice(end - len(part), end)
            keys, values = state.memory[number]
            keys[:, start : start + len(part)] = qk[rows, network.heads :].swapaxes(0, 1)
            values[:, start : start + len(part)] = v[rows].swapaxes(0, 1)
            attended.append(attend(qk[rows, : network.heads], keys, values, start, layer.sliding_window))
        x = x + layer.output(attended[0] if len(attended) == 1 else np.concatenate(attended))
        x = x + layer.down(network.activate(layer.gate_up(layer.second_norm(x))))
    return network.head(network.norm(x[ends - 1]))


def attend(q: np.ndarray, keys: np.ndarray, values: np.ndarray, start: int, sliding_window: int | None) -> np.ndarray:
    """Return what T queries (T, H, E) after `start` tokens read from keys and values (K, capacity, E): (T, H * E)."""
    tokens, heads, width = q.shape
    kv_heads, end = len(keys), start + tokens
    first = 0 if sliding_window is None else max(0, start - sliding_window + 1)
    # The queries that share a key head stand below one another: (K, H / K * T, E).
    q = q.reshape(tokens, kv_heads, -1, width).transpose(1, 2, 0, 3).reshape(kv_heads, -1, width)
    scores = (q * np.float32(width**-0.5)) @ keys[:, first:end].swapaxes(1, 2)
    if tokens > 1:
        distance = np.arange(start, end)[:, None] - np.arange(first, end)
        hidden = (distance < 0) | (distance >= (sliding_window or end))
        scores.reshape(kv_heads, -1, tokens, end - first)[:, :, hidden] = -np.inf
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    read = scores @ values[:, first:end] / scores.sum(-1, keepdims=True)
    return read.reshape(kv_heads, -1, tokens, width).transpose(2, 0, 1, 3).reshape(tokens, heads * width)
