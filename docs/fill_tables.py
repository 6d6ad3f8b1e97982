"""Writes the tables of results into the pages, from the files in results/: python3 docs/fill_tables.py

A table stands below a comment that says where its numbers come from:

    <!-- table: results/levels.csv
    columns: levels: 1; levels: 3          (optional; otherwise all, in the order of the file)
    Identity ↑, frames +1 to +16 = right digit, frames 1 to 16
    -->

Each further line names a row of the file, and what the page calls it. The test of the pages fails
where a table is not what this script would write.
"""

import csv
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"<!-- table: (?P<file>\S+)\n(?P<lines>.*?)-->\n(?P<table>(?:\|[^\n]*\n)*)", re.DOTALL)


def pages():
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text):
    """The text of a page with its tables written anew. Raises KeyError for a row that is not there."""
    return BLOCK.sub(lambda block: block[0].removesuffix(block["table"]) + table(
        block["file"], block["lines"].splitlines()), text)


def table(file, lines):
    """Rows of a results file as a Markdown table.

    lines: "columns: A; B" if not all are wanted; then for each row its name in the file, and, after
    an equals sign, its name on the page.
    """
    with open(ROOT / file, newline="") as opened:
        (_, *heads), *rows = csv.reader(opened)
    values = {name: dict(zip(heads, cells, strict=True)) for name, *cells in rows}
    if lines[0].startswith("columns: "):
        heads = lines.pop(0).removeprefix("columns: ").split("; ")
    written = [["", *heads], ["---"] * (1 + len(heads))]
    for line in lines:
        name, _, shown = line.partition(" = ")
        written.append([shown or name, *(values[name][head] for head in heads)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in written)


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text()))
