"""llama.cpp's C functions: of the package xllamacpp, which comes built, or of llama_cpp, which a compiler made.

xllamacpp has no quantizer; with it the types that Python can write are there, and the K types need llama_cpp.
"""

import ctypes
import importlib.util
import os
import weakref
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint8, c_uint32, c_void_p
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from errors import InputError

RELEASE = "2026.10.11549"  # of xllamacpp: the structs below are of llama.h at build 11549
COMMAND = "pip install -r requirements/export.txt"


# What --quantize may name, and llama.cpp's number for it (llama.h, enum llama_ftype).
FILE_TYPES = {
    "f32": 0, "bf16": 32, "f16": 1, "q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q5_0": 8, "q4_k_m": 15, "q4_0": 2,
}  # fmt: skip
K_TYPES = ("q6_k", "q5_k_m", "q4_k_m")


class ModelParams(Structure):
    """llama_model_params."""

    _fields_ = [
        ("devices", c_void_p), ("tensor_buft_overrides", c_void_p), ("n_gpu_layers", c_int32), ("split_mode", c_int32),
        ("load_mode", c_int32), ("lazy_mode", c_int32), ("main_gpu", c_int32), ("tensor_split", c_void_p),
        ("progress_callback", c_void_p), ("progress_callback_user_data", c_void_p), ("kv_overrides", c_void_p),
        ("vocab_only", c_bool), ("check_tensors", c_bool), ("use_extra_bufts", c_bool), ("no_host", c_bool),
        ("no_alloc", c_bool), ("load_mtp", c_bool),
    ]  # fmt: skip


class ContextParams(Structure):
    """llama_context_params."""

    _fields_ = [
        *((name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max")),
        ("n_outputs_max_per_seq", c_uint32), ("n_threads", c_int32), ("n_threads_batch", c_int32),
        *((f"{name}_type", c_int32) for name in ("ctx", "rope_scaling", "pooling", "attention", "flash_attn")),
        *((f"rope_freq_{name}", c_float) for name in ("base", "scale")),
        *((f"yarn_{name}", c_float) for name in ("ext_factor", "attn_factor", "beta_fast", "beta_slow")),
        ("yarn_orig_ctx", c_uint32), ("defrag_thold", c_float), ("cb_eval", c_void_p), ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32), ("type_v", c_int32), ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p), ("abort_callback_data", c_void_p), ("embeddings", c_bool),
        ("offload_kqv", c_bool), ("no_perf", c_bool), ("op_offload", c_bool), ("swa_full", c_bool),
        ("kv_unified", c_bool), ("samplers", c_void_p), ("n_samplers", c_size_t), ("ctx_other", c_void_p),
    ]  # fmt: skip


class Batch(Structure):
    """llama_batch."""

    _fields_ = [
        ("n_tokens", c_int32), ("token", POINTER(c_int32)), ("embd", POINTER(c_float)), ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)), ("seq_id", POINTER(POINTER(c_int32))), ("logits", POINTER(c_int8)),
    ]  # fmt: skip


TOKENS, STATE = POINTER(c_int32), POINTER(c_uint8)
FUNCTIONS = {  # what each returns and takes
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (ContextParams,),
    "llama_model_load_from_file": (c_void_p, c_char_p, ModelParams),
    "llama_init_from_model": (c_void_p, c_void_p, ContextParams),
    "llama_free": (None, c_void_p),
    "llama_model_free": (None, c_void_p),
    "llama_model_get_vocab": (c_void_p, c_void_p),
    "llama_get_memory": (c_void_p, c_void_p),
    "llama_vocab_n_tokens": (c_int32, c_void_p),
    **{f"llama_model_n_{name}": (c_int32, c_void_p) for name in ("ctx_train", "embd", "layer", "head", "head_kv")},
    "llama_model_meta_val_str": (c_int32, c_void_p, c_char_p, c_char_p, c_size_t),
    "llama_decode": (c_int32, c_void_p, Batch),
    "llama_get_logits_ith": (POINTER(c_float), c_void_p, c_int32),
    "llama_memory_seq_rm": (c_bool, c_void_p, c_int32, c_int32, c_int32),
    "llama_state_seq_get_size": (c_size_t, c_void_p, c_int32),
    "llama_state_seq_get_data": (c_size_t, c_void_p, STATE, c_size_t, c_int32),
    "llama_state_seq_set_data": (c_size_t, c_void_p, STATE, c_size_t, c_int32),
    "llama_tokenize": (c_int32, c_void_p, c_char_p, c_int32, TOKENS, c_int32, c_bool, c_bool),
    "llama_log_set": (None, c_void_p, c_void_p),
}


_kept: list = []  # of callbacks, since C holds no reference to them


def has_library() -> bool:
    """Tell whether llama.cpp is installed, by either package."""
    return any(importlib.util.find_spec(name) is not None for name in ("llama_cpp", "xllamacpp"))


@cache
def load_library():
    """Return llama.cpp's functions under their C names, its log silenced; InputError where it isn't installed."""
    if importlib.util.find_spec("llama_cpp") is not None:
        import llama_cpp as library

        callback = library.llama_log_callback
    else:
        library = bind_xllamacpp()
        callback = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
    _kept.append(callback(lambda level, text, data: None))
    library.llama_log_set(_kept[-1], None)
    return library


def check_quantizer(quantize: str) -> None:
    """Raise InputError where llama.cpp isn't here, or lacks the quantizer that a type needs."""
    if not hasattr(load_library(), "llama_model_quantize") and quantize in K_TYPES:
        raise InputError(
            f"--quantize {quantize}: llama-cpp-python makes it, which is compiled: pip install -r "
            "requirements/quantize.txt; q8_0, q5_0 and q4_0 need no more than is here"
        )


def bind_xllamacpp() -> SimpleNamespace:
    """Return the functions that xllamacpp's library holds beside its own, with the structs they take."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise InputError(f"llama.cpp is not installed: {COMMAND}")
    files = sorted(Path(spec.origin).parent.glob("xllamacpp*.so"))
    if version("xllamacpp") != RELEASE or not files:
        raise InputError(f"xllamacpp {version('xllamacpp')} is another than the one known here: {COMMAND}")
    library = ctypes.CDLL(str(files[0]))
    bound = SimpleNamespace(llama_batch=Batch, llama_token=c_int32)
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
        setattr(bound, name, function)
    return bound


class GgufFile:
    """A GGUF file in llama.cpp; its tokenizer alone, unless its weights are wanted too."""

    def __init__(self, file: Path, vocab_only: bool = True) -> None:
        self.library = lib = load_library()
        params = lib.llama_model_default_params()
        params.vocab_only = vocab_only
        self._model = lib.llama_model_load_from_file(os.fsencode(file), params)
        if not self._model:
            raise InputError(f"{file}: llama.cpp cannot load it; get this file again")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.close = weakref.finalize(self, lib.llama_model_free, self._model)

    def tokenize(self, text: str, with_control: bool = False) -> list[int]:
        """Return the ids of a text; control tokens are letters but `with_control`."""
        data = text.encode()
        ids = (self.library.llama_token * (len(data) + 1))()
        count = self.library.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, with_control)
        return ids[:count]
