"""Extracts the text of web pages in a process of its own, which the system ends where a page takes too much of it.

Started by `webpages.py`, one beside each process that reads pages. The parser is compiled and heeds no timer of
Python's: a page of 40 kB can keep it for half a minute and one of 1 MB for hours (tags nested without end, thousands of
attributes), or take all memory. On Windows, which has no such limits, it runs without.
"""

import os
import pickle
import sys
from contextlib import suppress

from resiliparse.extract.html2text import extract_plain_text

MEMORY_BYTES = 3 << 29


def main() -> None:
    """Answer each (page, options, processor seconds; 0: no limit) on standard input with its text or an exception."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while True:
        try:
            html, options, seconds = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        with suppress(ImportError, ValueError, OSError):
            end = int(sum(os.times()[:2]) + seconds) + 1 if seconds else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
        try:
            answer = extract_plain_text(html, **options)
        except Exception as error:  # the reader tells
            answer = ValueError(f"{type(error).__name__}: {error}")
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        main()
