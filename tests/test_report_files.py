"""Names reach every file of a report as they are: never as markup, links, formulas or the end of a table's row."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from test_report import make_cell

from eval.report.csv_files import pairs_csv, safe, stacked, sweep_csv
from eval.report.files import markdown, page, plain_text
from eval.report.latex import ROOM, ROWS, escape, tables_in_latex
from eval.report.layout import column_blocks, file_name, slug
from eval.report.parts import Section, Table
from eval.report.report import _tests
from eval.report.sweep import _called

NAMES = (
    "run[1]", "[x](http://e.vil)", "![x](y)", "*bold*", "**b**", "_em_", "a_b_c", "__init__", "`code`", "a|b", "a\\|b",
    "<script>alert(1)</script>", "<b>", "&amp;", "&#42;", "~~gone~~", "$x$ and $y$", "# no heading", "http://e.vil/x",
    "www.e.vil", "me@e.vil.org", "two\nlines", "back\\slash", "100 %", "< 0.001", "\\*", "[^1]", "1. x", "- x", "{x}^2",
)  # fmt: skip
IN_LATEX = (
    *NAMES,
    "[1] first",
    "*",
    "*starred",
    "--",
    "a---b",
    "''",
    '"q"',
    "é ü ß Łódź",
    "± – — ≥ × →",
    "tab\tx",
    "\x07",
)


def shown(name: str) -> str:
    return " ".join(name.split())


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_as_it_is(name):
    table = Table(name, f"Of {name.replace('`', '')}.", [name, "b"], [[name, "1"], ["2", name]])
    text = markdown(name, name, [table], [])
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    inline = [token for token in parsed if token.type == "inline"]
    seen = ["".join(child.content for child in token.children if child.type != "html_inline") for token in inline]
    texts = [one.strip() for one in seen if not one.startswith("Of ")]
    cells = [shown(name), "b", shown(name), "1", "2", shown(name)]
    assert texts == [shown(name)] * 3 + cells
    kinds = {child.type for token in inline for child in token.children}
    assert kinds <= {"text", "text_special", "html_inline", "code_inline"}
    assert sum(token.type == "tr_open" for token in parsed) == 3


def test_what_github_would_make_a_link_of_is_none():
    assert "://" not in plain_text("http://e.vil") and "www." not in plain_text("www.e.vil")
    assert re.search(r"\w@\w", plain_text("me@e.vil.org")) is None


class Texts(HTMLParser):
    """The texts of the cells and headings, and the tags."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.attributes = set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [value for _, value in attrs]
        if tag in ("td", "th", "h1", "h2", "figcaption"):
            self.texts.append("")

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_a_name_as_it_is(name):
    more = Section([Table(name, "Note.", [name], [[name], ["1"]])], {f"{name}.png": b""})
    read = Texts()
    read.feed(page(name, None, [], more))
    assert not read.tags & {"script", "b", "a"}
    texts = [shown(text.replace("\xa0", " ")) for text in read.texts]
    assert texts[0] == texts[3].strip() == texts[4].strip() == shown(name)
    assert name in read.attributes and f"{name}.png" in read.attributes


def test_a_page_is_for_narrow_and_dark_screens_too():
    text = page("x", None, [], Section([Table("t", "See `pairs.csv`.", ["a", "b"], [["1", "2"]])]))
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text and "max-width: 760px" in text
    assert '<td data-column="b">2</td>' in text, "on a narrow screen a cell says its column"
    assert "<code>pairs.csv</code>" in text


def test_a_table_that_is_wider_than_the_page_stands_in_blocks_with_its_first_columns_in_each():
    heads = ["task", *(f"level {i}: 1,664 tokens" for i in range(30))]
    row = ["Counterfactual Inference", *("57.5 (53–62)" for _ in range(30))]
    text = page("x", None, [], Section([Table("t", "", heads, [row])]))
    assert 2 <= text.count("<table>") <= 4 and text.count("<th>task</th>") == text.count("<table>")
    assert [text.count(f"<th>level {i}: 1,664 tokens</th>") for i in range(30)] == [1] * 30
    narrow = page("x", None, [], Section([Table("t", "", heads[:8], [row[:8]])]))
    assert narrow.count("<table>") == 1


def test_blocks_of_columns_fit_and_are_about_as_wide():
    assert column_blocks([10, 10, 10], 1, 30) == [[0, 1, 2]]
    assert column_blocks([10] * 8, 1, 70) == [[0, 1, 2, 3, 4], [0, 5, 6, 7]]
    assert column_blocks([10, 10, 90, 10], 2, 50) == [[0, 1, 2], [0, 1, 3]], "what is too wide alone stands alone"
    assert column_blocks([5], 1, 3) == [[0]]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"), ("+x", "'+x"), ("-x", "'-x"), ("-3+cmd|x", "'-3+cmd|x"), ("@x", "'@x"), ("\t=1", "'\t=1"),
        ("＝1", "'＝1"), ("-3", "-3"), ("+1.5e-3", "+1.5e-3"), ("a=b", "a=b"), ("", ""), (-0.123456789, -0.123457),
        (None, None), (3, 3), (" =1", "' =1"), ("\u200b=1", "'\u200b=1"), ("\ufeff\u00a0@x", "'\ufeff\u00a0@x"),
        ("\u2060+x", "'\u2060+x"), (" \t -x", "' \t -x"), ("\u00ad＝1", "'\u00ad＝1"), ("\u3164=1", "'\u3164=1"),
        ("\u034f=1", "'\u034f=1"), ("\x00=1", "'\x00=1"), (" a", " a"), (" ", " "), ("\u200bá=b", "\u200bá=b"),
    ],
)  # fmt: skip
def test_a_spreadsheet_runs_no_name_and_numbers_stay_numbers(value, cell):
    assert safe(value) == cell


def test_no_cell_of_a_report_is_a_formula(tmp_path):
    tasks = {"=SUM(A1)": 0.75, "@x": 0.5, 'a,b\n"c"': 0.5}
    groups = dict.fromkeys(tasks, "-group")
    cells = [make_cell(tmp_path, level, tasks, name="+run", groups=groups, n=8) for level in (1, 4)]
    for made in (sweep_csv(cells), pairs_csv(_tests(cells))):
        head, *rows = csv.reader(io.StringIO(stacked([("=one", made), ("two", made)])))
        assert {len(row) for row in rows} == {len(head)} and {row[0] for row in rows} == {"'=one", "two"}
        assert not [cell for row in rows for cell in row if re.match(r"[=+@\t\r]|-(?!\d)", cell)]
        assert {row[1 + ("first" in head)] for row in rows} >= {"'+run_pool1"}
        column = head.index("difference" if "difference" in head else "accuracy")
        assert all(abs(float(row[column])) <= 1 for row in rows)


@pytest.mark.parametrize("name", IN_LATEX)
def test_latex_has_no_live_character_of_a_name(name):
    text = escape(name)
    named = r"\\text(backslash|asciitilde|asciicircum|asciigrave|bar|endash|emdash)\{\}"
    signs = r"\\[&%$#_{}]|\$(<|>|[+-]|\\pm|\\times|\\geq|\\rightarrow)\$|\{(\[|\]|\*|\\char34)\}|\{\}"
    rest = re.sub(f"{named}|{signs}", ".", text)
    assert not re.search(r"[\\&%$#_{}~^\[\]*<>|\n\t\x07]|--|''", rest), text


def latex_table(name: str, rows: int = 1) -> Table:
    return Table(name, f"Note of {name}.", [name, "b"], [[name, "1.0 (0.5–1.5)"] for _ in range(rows)], in_latex=True)


def test_latex_labels_are_unique_in_a_report_and_over_reports():
    def labels(name: str) -> list[str]:
        tables = [latex_table(title) for title in ("a: tests", "a/tests", "甲", "乙", "a: tests")]
        return re.findall(r"\\label\{(.*?)\}", tables_in_latex(tables, "Pool sweep", None, name))

    found = [label for name in ("results/a", "results-a", "results/b", None) for label in labels(name)]
    assert len(found) == len(set(found)) == 20
    assert labels("results/a") == found[:5], "a label stays the same when the report is written again"
    assert all(re.fullmatch(r"tab:[a-z0-9:-]+", label) for label in found)


def test_a_sweep_is_told_from_others_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _called(Path("results/a")) == _called(tmp_path / "results/a") == "results/a"
    assert _called(Path("..") / "elsewhere") == (tmp_path.parent / "elsewhere").as_posix()


def test_latex_tables_are_split_where_a_page_ends():
    heads = ["comparison", "questions", *(f"level {i}: 1,664 tokens" for i in range(12))]
    rows = [[f"row {i}", "all", *("57.5 (53–62)" for _ in range(12))] for i in range(80)]
    text = tables_in_latex([Table("T", "N.", heads, rows, True, keys=2)], "x")
    bodies = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(bodies) % 3 == 0 and all(body.count("row ") <= ROWS for _, body in bodies)
    assert all(13 * len(columns) <= ROOM + 13 and "comparison & questions" in body for columns, body in bodies)
    assert sum(body.count("row 79 &") for _, body in bodies) == len(bodies) // 3
    assert text.count(r"\resizebox{\textwidth}") == len(bodies) == text.count("(continued)") + 1


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_latex_tables_compile_and_fit_the_page(tmp_path):
    tables = [latex_table(name) for name in IN_LATEX] + [latex_table("x" * 300, 50)]
    tables.append(Table("all", "", ["a", "b"], [[name, name] for name in IN_LATEX], True))
    for i in range(2):
        (tmp_path / f"{i}.tex").write_text(tables_in_latex(tables, "% \\end{document}\n}", "a\nb", f"results/{i}"))
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs, graphicx, textcomp}\\usepackage[T1]{fontenc}\n"
        "\\extrafloats{500}\\begin{document}\n\\input{0}\\clearpage\\input{1}\n\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search(r"Overfull \\hbox|Float too large|multiply defined|Missing character", done.stdout), (
        done.stdout
    )


def test_letters_that_pdflatex_does_not_know_are_said_in_the_file():
    assert "pdflatex does not know 甲: take lualatex" in tables_in_latex([latex_table("甲")], "x").splitlines()[0]
    assert "pdflatex does not" not in tables_in_latex([latex_table("é ± – …")], "x")


def test_names_of_files_are_apart_where_names_are():
    assert file_name("mvbench") == "mvbench" and slug("results") == "results"
    for names in (("a/b", "a-b", "a b"), ("甲", "乙"), ("../x", "x", "-x")):
        made = {file_name(name) for name in names} | {slug(name) for name in names}
        assert len({file_name(name) for name in names}) == len({slug(name) for name in names}) == len(names)
        assert not any(set("/ \\") & set(name) or name.startswith(".") for name in made)


def test_code_in_a_note_keeps_the_spaces_and_points_around_it():
    table = Table("t", "Listed in `pairs.csv`. See `--margin` * and `a_b`", ["x"], [["y"]])
    text = markdown("title", None, [table], [])
    assert "Listed in `pairs.csv`. See `--margin` \\* and `a_b`\n" in text
