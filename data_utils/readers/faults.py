"""Judges the rows that can't be used: names the first five with the total, and stops where too many are left out."""

from collections.abc import Sequence

from data_utils.readers.files import Fault
from errors import InputError

MAX_BROKEN_FRACTION = 0.2  # more is no accident: the file has another form than the one that was read
SHOWN_FAULTS = 5


def name_faults(faults: Sequence[Fault]) -> str:
    """Return the first faults in one line, each with file, place and reason, where it isn't that of the one before."""
    shown, before = [], ""
    for fault in faults[:SHOWN_FAULTS]:
        reason = "the same" if fault.reason == before else fault.reason
        shown.append(f"{fault.file}{':' if fault.place else ''}{fault.place}: {reason}")
        before = fault.reason
    return "; ".join(shown) + (f"; and {len(faults) - SHOWN_FAULTS:,} more" if len(faults) > SHOWN_FAULTS else "")


def judge_faults(faults: Sequence[Fault], rows: int, skip: bool, remedy: str) -> str:
    """Return the line that tells which of so many rows are left out, '' for none.

    Raises InputError, which names them, where there are any and `skip` is false, or where they are more than
    MAX_BROKEN_FRACTION of the rows. `remedy` says how to have them left out.
    """
    if not faults:
        return ""
    count = f"{len(faults):,} of {rows:,} rows"
    if len(faults) > MAX_BROKEN_FRACTION * rows:
        limit = f"; {count} can't be used, more than the {MAX_BROKEN_FRACTION:.0%} that may be left out"
        raise InputError(name_faults(faults) + (limit if rows > 1 else ""))
    if not skip:
        raise InputError(f"{name_faults(faults)}; {count} can't be used: repair them, or {remedy}")
    return f"left out: {count}: {name_faults(faults)}"
