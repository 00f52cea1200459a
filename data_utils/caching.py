"""What was prepared once is found again, and of several processes one prepares while the others wait."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import datasets
import xxhash
from datasets import Dataset, Features
from datasets.exceptions import DatasetGenerationError
from filelock import FileLock


def cache_key(*parts: object) -> str:
    """Return a key for what these parts and the code that prepares data determine: an upgrade makes no stale hit."""
    return xxhash.xxh64("\0".join([_code_version(), *map(str, parts)]).encode()).hexdigest()


@cache
def _code_version() -> str:
    rooms = Path(__file__).parent, Path(__file__).parents[1] / "model_utils"  # the second turns text into ids
    files = sorted(file for room in rooms for file in room.rglob("*.py"))
    return xxhash.xxh64(b"".join(file.read_bytes() for file in files)).hexdigest()


def cache_folder() -> Path:
    """Return the folder of what is cached here beside the datasets (HF_DATASETS_CACHE), made for this user's eyes."""
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "prepared"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def preparation_lock() -> FileLock:
    """Return a lock under which one process prepares data while others wait for as long as it takes.

    A lock on a file, not a barrier: barriers of torch.distributed give up after some minutes.
    """
    return FileLock(cache_folder() / "preparation.lock", timeout=-1)


def generate_rows(generate: Callable[..., Iterator[dict]], features: Features, key: str, **arguments) -> Dataset:
    """Return the rows that `generate(**arguments)` yields as a Dataset, made once for each `key`; it may be empty."""
    try:
        return Dataset.from_generator(generate, features, gen_kwargs=arguments, fingerprint=key)
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None  # what went wrong, not that something did
    except ValueError as error:
        if "corresponds to no data" not in str(error):
            raise
        return Dataset.from_dict({name: [] for name in features}, features)
