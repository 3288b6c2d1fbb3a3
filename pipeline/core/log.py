"""One log line per event on stderr, and progress bars where somebody watches.

Nothing here prints to stdout: that belongs to the commands' own output.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

_PICTURES = {n: 0x2400 + n for n in range(32) if chr(n) not in "\t\n"} | dict.fromkeys(
    range(127, 160), 65533
)


class Terminal(Console):
    """Shows control characters as pictures on a terminal: a file's text must not move the cursor."""

    def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
        """Segments as rich makes them, their text made harmless."""
        for segment in super().render(*args, **kwargs):
            raw = segment.control or not self.is_terminal
            yield segment if raw else segment._replace(text=segment.text.translate(_PICTURES))


console = Terminal(stderr=True, soft_wrap=True, highlight=False)


def setup(verbose: bool = False) -> None:
    """Log to stderr: times and colours in a terminal, plain lines elsewhere."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    level = logging.DEBUG if verbose else logging.INFO
    for name in ("pipeline", "serve", "cluster"):
        logging.getLogger(name).setLevel(level)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of `total` units that goes away when done; silent when stderr is no terminal.

    Yields `advance(n)`.
    """
    if not console.is_terminal:
        yield lambda n: None
        return
    columns = (TextColumn(f"{label:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda n: bar.advance(task, n)
