"""The pages: their lines, links, names, flags and tables. test_commands.py runs what they print."""

import dataclasses
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from config import Config

sys.path.append(str(ROOT / "docs"))
import fill_tables  # noqa: E402

PAGES = [*fill_tables.pages(), ROOT / "CONTRIBUTING.md", ROOT / "results" / "experiments.md"]
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# What programs write, and what a reader is told to make or to have; none of it is in the repository.
OUTPUTS = re.compile(
    r"\b(my_videos|their_run|my_run|my_model|EXPERIMENT|clip|comparison|squares|eval_<)")


def text_of(page):
    """The page without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text()), flags=re.DOTALL)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")}),
                         ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_is_longer_than_100_characters(page):
    long = [number for number, line in enumerate(page.read_text().splitlines(), 1) if len(line) > 100]
    assert not long, f"{page.name}: lines {long}; see docs/fill_tables.py for tables"


def test_the_readme_is_read_to_its_end():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_map_has_every_module():
    the_map = (ROOT / "README.md").read_text().split("\n## Map\n")[1]
    assert set(re.findall(r"(?<=[\[`])\w+\.py", the_map)) == {file.name for file in ROOT.glob("*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    for link in links:
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page):
    text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
    folders = "configs|docs|results|tests|figures|video_data|pretrained"
    names = re.findall(rf"(?<![\w/])((?:{folders})/[\w./-]*\w/?)", text)
    names += re.findall(r"`([a-z_]+\.py|requirements[\w-]*\.(?:txt|lock)|Makefile)`", text)
    names += re.findall(r"python3 (\S+\.py)", text)
    missing = [name for name in names if not (ROOT / name).exists() and not OUTPUTS.search(name)]
    assert not missing


def test_every_figure_is_shown_once():
    shown = [name for page in PAGES for name in re.findall(r"!\[[^]]*\]\([./]*figures/([^)]*)\)",
                                                           page.read_text())]
    assert sorted(shown) == sorted(file.name for file in (ROOT / "figures").iterdir())


# -------------------------------------------------------------------------------------------- flags

COMMANDS = {"analyze.py": ("levels", "information", "probe", "dream"),
            "bench.py": ("train", "eval", "data")}
# Flags of other programs that pages name.
FOREIGN = {"--ntasks-per-node", "--index-url"}


def help_of(script, *command):
    return subprocess.run([sys.executable, ROOT / script, *command, "--help"], text=True,
                          capture_output=True, check=True, cwd=ROOT).stdout


@pytest.fixture(scope="module")
def known_flags():
    """The flags of every script that the pages call, by its name."""
    found = {}
    for script in ("train.py", "eval.py", "plot.py", "data_loader.py", "analyze.py", "bench.py"):
        texts = [help_of(script, *command) for command in [(), *((name,) for name in
                                                                COMMANDS.get(script, ()))]]
        found[script] = set(re.findall(r"--[a-z][\w-]*", "\n".join(texts)))
    return found


def test_every_flag_exists(known_flags):
    everywhere = set().union(*known_flags.values(), FOREIGN)
    for page in PAGES:
        text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
        for line in re.sub(r"\\\n", " ", text).splitlines():
            flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", line))
            script = re.search(r"python3 (\w+\.py)", line)
            known = known_flags.get(script[1], set()) | FOREIGN if script else everywhere
            assert flags <= known, f"{page.name}: {sorted(flags - known)} in {line!r}"


def test_keys_in_the_first_column_of_tables_are_keys_of_the_config():
    keys = {field.name for field in dataclasses.fields(Config)}
    (table,) = re.findall(r"## Keys for every dataset\n\n(.*?)\n\n",
                          (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    named = re.findall(r"^\| `(\w+)", table, re.MULTILINE)
    assert named and set(named) <= keys


# ------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("page", fill_tables.pages(), ids=lambda page: page.name)
def test_tables_of_results_are_those_of_the_files(page):
    text = page.read_text()
    assert fill_tables.filled(text) == text, "python3 docs/fill_tables.py writes them anew"
    # A number with an interval comes from a file.
    rest = fill_tables.BLOCK.sub("", text)
    assert not re.findall(r"^\|.*\d \[-?\d.*$", rest, re.MULTILINE)


def test_every_file_of_results_is_shown_or_named():
    text = "\n".join(page.read_text() for page in PAGES)
    for file in (ROOT / "results").iterdir():
        assert f"results/{file.name}" in text or f"]({file.name})" in text, file


def test_a_table_is_the_rows_that_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fill_tables, "ROOT", tmp_path)
    (tmp_path / "a.csv").write_text(',x,y\nPSNR ↑,"1.00 [0.90, 1.10]",2\nSSIM ↑,3,4\n')
    text = "<!-- table: a.csv\ncolumns: y\nPSNR ↑ = better\nSSIM ↑\n-->\n\nAfter | it.\n"
    want = text.replace("-->\n", "-->\n|  | y |\n| --- | --- |\n| better | 2 |\n| SSIM ↑ | 4 |\n")
    assert fill_tables.filled(text) == fill_tables.filled(want) == want
    stale = want.replace("| better | 2 |", "| better | 5 |")
    assert fill_tables.filled(stale) == want
    with pytest.raises(KeyError, match="LPIPS"):
        fill_tables.filled("<!-- table: a.csv\nLPIPS\n-->\n")
    with pytest.raises(FileNotFoundError):
        fill_tables.filled("<!-- table: b.csv\nPSNR ↑\n-->\n")


def test_a_dead_link_would_be_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One, *two*: `three_4`\n\n[x](#one-two-three_4)\n")
    assert anchors(page) == {"one-two-three_4"}
    test_every_link_leads_somewhere(page)
    for link in ("#two", "no.md", "page.md#no"):
        page.write_text(f"# One\n\n[x]({link})\n")
        with pytest.raises(AssertionError):
            test_every_link_leads_somewhere(page)
