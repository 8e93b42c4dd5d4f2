"""Tables of benchmarks in Markdown, and where they stand in a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
END = "<!-- end of table -->"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 0) -> str:
    """Return a table in Markdown.

    :param words: columns of words, at the left; those of numbers, after them, are aligned to the right. 0: all.
    """
    words = words or len(head)
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(table: str, page: Path, script: str) -> None:
    """Put *table* in place of the one in *page* that stands behind the mark of *script*, a file of this folder."""
    start = f"<!-- table of tests/benchmarks/{script} -->"
    before, rest = page.read_text(encoding="utf-8").split(start)
    page.write_text(f"{before}{start}\n\n{table}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
