"""Chooses the files of a source that hold dialogues or preferences; light to import."""

import os
from pathlib import Path

from data_utils.readers.files import ROW_KINDS, file_suffix, name_first
from data_utils.sources.builtin import DIALOGUE_SOURCES
from data_utils.sources.source import Source
from errors import InputError

DIALOGUE_KINDS = (*ROW_KINDS, ".txt")


def choose_parts(source: Source) -> tuple[list[str], list[str]]:
    """Return (parts that hold dialogues, files that are passed over) of a source.

    In a folder, a .txt beside files of another kind is a note or a licence. Raises InputError where nothing is left.
    """
    if source.is_builtin and source.path not in DIALOGUE_SOURCES:
        raise InputError(f"{source.path}: has no dialogues; built-in sources that do: {' '.join(DIALOGUE_SOURCES)}")
    if not source.files:
        return source.parts(), []
    kinds = {file: file_suffix(file) for file in source.files}
    kept = [file for file in kinds if kinds[file] in DIALOGUE_KINDS]
    if Path(source.path).is_dir() and {kinds[file] for file in kept} > {".txt"}:
        kept = [file for file in kept if kinds[file] != ".txt"]
    if not kept:
        kinds_read = f"dialogues are read from {' '.join(DIALOGUE_KINDS)}"
        raise InputError(f"{source.files[0]}: {kinds_read}; give a text to train.py --corpus")
    return kept, sorted(kinds.keys() - set(kept))


def describe_passed(source: Source, passed_over: list[str]) -> list[str]:
    """Return the lines that name the files of a source which `choose_parts` passed over, one for each kind."""
    kinds: dict[str, list[str]] = {}
    for file in passed_over:
        kinds.setdefault(file_suffix(file), []).append(file)
    lines = []
    for kind, files in kinds.items():
        names = name_first([os.path.relpath(file, source.path) for file in files])
        why = f"no dialogues are read from {kind}, left out"
        if kind in DIALOGUE_KINDS:
            why = "not read beside other kinds; name it by itself"
        lines.append(f"{source.path}: {names}: {why}")
    return lines
