"""What the tasks read from each source's format, on made-up inputs."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from scripts.tasks import (
    ansible_modules,
    aws_operations,
    emoji,
    foldoc,
    gimp_manual,
    linter_rules,
    man_pages,
    package_descriptions,
    python_functions,
)
from scripts.tasks.all_tasks import TASKS
from scripts.tasks.task import Row
from scripts.tasks.text import first_sentence, shorten

ROOT = Path(__file__).parents[2]


def archive(folder: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(folder / "archive.zip", "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return folder / "archive.zip"


@pytest.mark.parametrize(
    ("text", "first", "rest"),
    [
        ("One. Two.", "One.", "Two."),
        ("See e.g. This one. Then that.", "See e.g. This one.", "Then that."),
        ("By J. R. Smith in 1980. It\nruns.", "By J. R. Smith in 1980.", "It runs."),
        ("version 2.0 is out", "version 2.0 is out", ""),
        ("Über alles? Ärger!", "Über alles?", "Ärger!"),
    ],
)
def test_first_sentence(text, first, rest):
    assert first_sentence(text) == (first, rest)


def test_shortened_between_words():
    assert shorten("one two three", 9) == "one two"
    assert shorten("one", 3) == "one"


def test_ansible(tmp_path):
    module = '''
import secrets_that_do_not_exist
raise SystemExit("run")
DOCUMENTATION = """
short_description: Manage a thing
description:
  - Creates a B(thing), see M(other.thing).
  - Or not.
"""
EXAMPLES = """
- name: Make sure a thing exists
  acme.cloud.new_thing_info: {}
- name: Play
  hosts: all
  tasks:
    - name: Remove the thing again
      block:
        - name: Log it all
          debug: {}
        - name: Read what is left
          new_thing_info: {}
- name: short one
"""
'''
    path = "ansible_collections/acme/cloud/plugins/modules/{}.py"
    broken = 'DOCUMENTATION = "a: ["'
    files = archive(tmp_path, {path.format("new_thing_info"): module, path.format("bad"): broken, "setup.py": module})
    document = "new thing info: Manage a thing. Creates a thing, see other.thing. Or not."
    assert list(ansible_modules.rows([files])) == [
        Row("acme.cloud.new_thing", document, query) for query in ("", "Make sure a thing exists", "Read what is left")
    ]


def test_aws(tmp_path):
    def service(text: str) -> bytes:
        shapes = {"In": {"members": {"Name": {}, "Size": {}}}}
        operation = {"documentation": text, "input": {"shape": "In"}}
        metadata = {"serviceFullName": "Acme Boxes"}
        return gzip.compress(
            json.dumps({"metadata": metadata, "operations": {"MakeBox": operation}, "shapes": shapes}).encode()
        )

    path = "botocore/data/boxes/{}/service-2.json.gz"
    text = "<p>Makes a <b>new</b> box &amp; lid.</p> <p>Costs extra.</p>"
    files = archive(tmp_path, {path.format("2020-01-01"): service("old"), path.format("2024-01-01"): service(text)})
    assert list(aws_operations.rows([files])) == [
        Row("Acme Boxes MakeBox", "Acme Boxes MakeBox input: Name, Size. Costs extra.", "Makes a new box & lid.")
    ]


def test_python():
    source = '''
@decorated
def area(width, height):
    """Return the area of a
    rectangle.

    More about it.
    """
    def inner():
        """Inner."""
    # a comment
    return width * height

def short(): """Too short to be searched for."""

raise SystemExit("run")
'''
    (row,) = python_functions.functions(source)
    assert row.query == "Return the area of a rectangle."
    assert row.document == (
        "@decorated\ndef area(width, height):\n\n    def inner():\n        pass\n    return width * height"
    )
    assert list(python_functions.functions("print 'Python 2'")) == []


def test_foldoc(tmp_path):
    text = """00-database-info

   About it.

APL

   <language> A programming language designed by {K. Iverson}
   (http://example.org/).  It uses many special characters and is very terse indeed.

   ["A Programming Language", 1962].

   (1994-11-08)

bug

   1. <programming> An unwanted property of a program or piece of hardware. Seldom seen by
   those who made it.

   2. An insect.

"""
    files = archive(tmp_path, {"foldoc.dict.dz.gz": b"", "x/foldoc.dict.dz": gzip.compress(text.encode())})
    assert list(foldoc.rows([files])) == [
        Row(
            "APL",
            "APL. It uses many special characters and is very terse indeed.",
            "A programming language designed by K. Iverson.",
        ),
        Row(
            "bug",
            "bug. Seldom seen by those who made it.",
            "An unwanted property of a program or piece of hardware.",
        ),
    ]


def test_linters():
    source = (
        'msgs = {"W0102": ("Dangerous %s as argument", "dangerous-default", "Used when it is.\\n Often.", {}), "x": 1}'
    )
    assert list(linter_rules.pylint_rules(source)) == [
        Row("Python dangerous default", "Python: dangerous default. Used when it is. Often.", "Dangerous as argument")
    ]
    ruby = """
      # Checks for tabs.
      #
      # @example
      #   # bad
      #   x
      class NoTabs < Base
        MSG = 'Tab in `%<name>s`, ' \\
              'use spaces.'
        MSG_SHORT = 'No'
"""
    document = "Ruby: no tabs. Checks for tabs. @example # bad x"
    assert list(linter_rules.rubocop_rules("no_tabs", ruby)) == [
        Row("Ruby no tabs", document, "Tab in , use spaces."),
        Row("Ruby no tabs", document),
    ]


def test_man_pages(tmp_path):
    page = r""".\" comment
.TH FIND 1
.SH BEZEICHNUNG
find, \fBxfind\fP \- nach Dateien suchen \(en schnell
.SH "SIEHE AUCH"
nichts
.SH BESCHREIBUNG
.B find
durchsucht
.BR Verzeichnisse (7),
\fIund\fP mehr\&.
.PP
Ende \(aqhier\(aq.
"""
    files = archive(tmp_path, {"man/de/man1/find.1.gz": gzip.compress(page.encode()), "man/de/man1/ls.1.gz": b""})
    rows = man_pages.rows_of(r"find\.1\.gz$", "BEZEICHNUNG", "BESCHREIBUNG")
    assert list(rows([files])) == [
        Row(
            "find, xfind",
            "find, xfind: find durchsucht Verzeichnisse(7), und mehr. Ende 'hier'.",
            "nach Dateien suchen \u2013 schnell",
        )
    ]


def test_packages(tmp_path):
    long = " Acme makes boxes of all sizes for\n every use that anyone could ever think of.\n"
    index = "\n".join(
        f"Package: {name}\nDescription-md5: 0\nDescription-en: {short}\n{long} .\n {more}\n"
        for name, short, more in [
            ("acme", "maker of boxes", "The program."),
            ("acme-doc", "maker of boxes - manual", "The manual."),
            ("old", "transitional package for acme", "Nothing."),
        ]
    )
    (tmp_path / "index").write_text(index, "utf-8")
    about = "Acme makes boxes of all sizes for every use that anyone could ever think of."
    assert list(package_descriptions.rows_in("en")([tmp_path / "index"])) == [
        Row(about, f"acme: {about} The program.", "maker of boxes"),
        Row(about, f"acme-doc: {about} The manual.", "maker of boxes - manual"),
    ]


def test_emoji(tmp_path):
    content = {"annotations": {"annotations": {"😀": {"default": ["happy", "grin"], "tts": ["grinning face"]}}}}
    files = archive(tmp_path, {"package/annotations/en/annotations.json": json.dumps(content)})
    assert list(emoji.rows([files])) == [Row("😀", "grinning face", query) for query in ("", "happy", "grin")]


def test_manual(tmp_path):
    page = """<div><h2 class="title"><a id="x"></a>4.2. Ciseaux</h2><p class="title">Figure 1</p>
<p>Cet outil sert à découper une image.</p><p>This is the untranslated part.</p>
<p>Le reste de la section est plus long que la première phrase et dit tout <b>ce</b> qui reste à dire.</p>
<h3>4.2.1. Accès</h3><p>Elle se trouve dans le menu. C'est un menu de la fenêtre, que vous pouvez ouvrir par un clic sur
le titre.</p><h3>Vide</h3></div>"""
    files = archive(tmp_path, {"gimp/2.0/help/fr/cut.html": page, "help/fr/gfdl-1.html": page})
    first, second = gimp_manual.rows([files])
    assert first.query == "Cet outil sert à découper une image."
    assert first.document.startswith("Ciseaux. Le reste de la section")
    assert "translated" not in first.document
    assert second.query == ""
    assert second.document.startswith("Ciseaux. Accès. C'est un menu")
    assert {first.concept, second.concept} == {"gimp/2.0/help/fr/cut.html"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/tasks/build.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_lists_all_tasks_and_refuses_others(tmp_path):
    (tmp_path / "foldoc").mkdir()
    (tmp_path / "foldoc/facts.json").write_text('{"corpus": 8000, "overlap": 0.3}')
    listed = run("--list", "--out", str(tmp_path))
    assert listed.returncode == 0, listed.stderr
    rows = [line.strip("| ").split(" | ") for line in listed.stdout.splitlines()]
    assert [row[0].strip("`") for row in rows[2:]] == list(TASKS)
    (built,) = (dict(zip(rows[0], row, strict=False)) for row in rows[2:] if "foldoc" in row[0])
    assert (built["corpus"], built["overlap"]) == ("8,000", "0.3")
    refused = run("foldog")
    assert refused.returncode == 2
    assert "foldoc" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow  # downloads 2 MB, and needs the package registry of Debian 12
@pytest.mark.network
def test_a_real_task_is_built(tmp_path):
    built = run("foldoc", "--out", str(tmp_path))
    assert built.returncode == 0, built.stderr
    facts = json.loads((tmp_path / "foldoc/facts.json").read_text("utf-8"))
    assert facts["corpus"] == 8_000
    assert facts["train pairs"] == 2_599
    assert facts["test documents also trained on"] == 0
