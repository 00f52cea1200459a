"""Knows the files of an export: which are copied beside the weights, which may be replaced, which are uploaded."""

import json
import shutil
from fnmatch import fnmatch
from glob import escape
from pathlib import Path

from errors import InputError, first_line

WORD_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
RECORD_FILE = "export.json"  # what a folder was exported from; only a folder that has it is replaced


def check_replaceable(output: Path) -> None:
    """Raise InputError where something else than an export, or something beside it, would be lost."""
    if Path.cwd().is_relative_to(output.resolve()):
        raise InputError(f"--output_dir {output}: the folder of this command or one around it; name a new one")
    if not output.exists():
        return
    try:
        written = {RECORD_FILE, *json.loads((output / RECORD_FILE).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, LookupError, TypeError):  # no record, or none of ours
        written = set()
    others = set(list_files(output)) - written if output.is_dir() else {output.name}
    if others:
        raise InputError(
            f"{output}: holds {min(others)}, which no export is known to have written; name a new --output_dir"
        )


def list_files(folder: Path) -> list[str]:
    """Return the files of a folder and of those in it, by their paths there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def copy_words(checkpoint: Path, folder: Path) -> None:
    """Copy what a model speaks by: tokenizer, chat template, generation settings with the stop token.

    Raises InputError for a base that was never taught dialogues: its tokenizer lacks what a prompt is made of.
    """
    from model_utils.checkpoint import load_tokenizer  # takes seconds to import

    if not load_tokenizer(str(checkpoint)).chat_template:
        raise InputError(f"{checkpoint}: has no chat template, so that nothing could be asked of the export; teach it "
                         "dialogues first, by finetune_dialogue.py --base")  # fmt: skip
    for name in WORD_FILES:
        if (checkpoint / name).is_file():
            shutil.copy(checkpoint / name, folder)


def list_public(folder: Path) -> list[str]:
    """Return the files that are uploaded of a folder: an export's, or those by which a checkpoint is loaded.

    Not run.yaml and report.md, which hold paths of this machine and held-out text, nor whatever else lies there.
    """
    files = list_files(folder)
    if RECORD_FILE in files:
        return [RECORD_FILE, *json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["files"]]
    names = {"config.json", "model.safetensors.index.json", "README.md", "LICENSE", *WORD_FILES}
    return [name for name in files if name in names or fnmatch(name, "model*.safetensors")]


def push(folder: Path, repository: str) -> None:
    """Upload a model to a repository of the hub, made private where it isn't there yet; say what goes where."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        readers = "private" if api.repo_info(repository).private else "public: everybody can read it"
        files = list_public(folder)
        print(f"{repository} is {readers}; uploading {', '.join(files)}")
        place = api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=[escape(n) for n in files])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = (
            "; log in with: hf auth login" if status in (401, 403) or isinstance(error, LocalTokenNotFoundError) else ""
        )
        raise InputError(f"--push {repository}: {first_line(error)}{advice}") from error
    print(f"pushed to {place.repo_url if hasattr(place, 'repo_url') else repository}")
