"""Opens the package llama_cpp, its log silenced."""

from errors import InputError


def load_library():
    """Return the package llama_cpp with its log silenced; InputError where it isn't installed."""
    try:
        import llama_cpp
    except ImportError as error:
        raise InputError("llama.cpp is not installed: pip install -r requirements/export.txt") from error
    if not hasattr(load_library, "silence"):  # kept, since C holds no reference to it
        load_library.silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(load_library.silence, None)
    return llama_cpp
