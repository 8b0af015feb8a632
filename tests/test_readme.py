"""Generated text goes between its markers, and nothing else of a file changes."""

import re
import subprocess
import sys

import pytest
from project import ROOT

from npu_parity.errors import ParityError
from npu_parity.report import readme

pytestmark = pytest.mark.slow

WEIGHTS = ROOT / "results/efficientnet_lite0/weights.safetensors"
TEXT = """# Title

before | `<!-- from FILE --> … <!-- end -->` is a marker

<!-- from a.md -->
old
<!-- end -->

between \\1 \\g<0>

<!-- from deep/b.md -->
<!-- end -->
after"""
CONTENTS = {"a.md": "| a |\n|---|\n| \\1 |\n", "deep/b.md": "\n\ntext <!-- not a marker -->"}


def outside(text):
    return re.split(r"(?ms)^(<!-- from \S+ -->)$.*?^(<!-- end -->)$", text)


def test_contents_stand_between_their_markers():
    assert readme.markers(TEXT) == ["a.md", "deep/b.md"]
    spliced = readme.splice(TEXT, CONTENTS)
    assert "<!-- from a.md -->\n\n| a |\n|---|\n| \\1 |\n\n<!-- end -->\n" in spliced
    assert "<!-- from deep/b.md -->\n\ntext <!-- not a marker -->\n\n<!-- end -->\n" in spliced
    assert "old" not in spliced


def test_splicing_again_changes_nothing():
    spliced = readme.splice(TEXT, CONTENTS)
    assert readme.splice(spliced, CONTENTS) == spliced != TEXT
    changed = readme.splice(spliced, CONTENTS | {"a.md": "other"})
    assert readme.splice(changed, CONTENTS) == spliced


def test_text_outside_is_untouched():
    spliced = readme.splice(TEXT, CONTENTS)
    assert outside(spliced) == outside(TEXT) and len(outside(TEXT)) == 7
    assert (
        readme.splice("no marker, \\1 and <!-- end -->\n", {})
        == "no marker, \\1 and <!-- end -->\n"
    )


def test_unknown_file():
    with pytest.raises(ParityError, match=r"`from deep/b\.md` names a file that is not there"):
        readme.splice(TEXT, {"a.md": ""})


@pytest.mark.parametrize(
    "text",
    [
        "<!-- from a.md -->\nto the end of the file\n",
        "<!-- from a.md -->\nkept\n\n<!-- from deep/b.md -->\nold\n<!-- end -->\n",
        "<!-- from a.md -->\n  <!-- end -->\n",
    ],
)
def test_marker_without_an_end_swallows_nothing(text):
    with pytest.raises(ParityError, match=r"`from a\.md` has no <!-- end --> of its own"):
        readme.splice(text, CONTENTS)


# The program


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "README.md").write_text(TEXT, encoding="utf-8")
    for name, content in CONTENTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def program(folder, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / "readme.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_check_fails_until_it_is_spliced(folder):
    file = folder / "README.md"
    error = "error: README.md differs from its tables: run `make docs`\n"
    assert program(folder, "--check", "README.md") == (1, error)
    assert file.read_text(encoding="utf-8") == TEXT

    assert program(folder, "README.md") == (0, "")
    assert file.read_text(encoding="utf-8") == readme.splice(TEXT, CONTENTS)
    assert program(folder, "--check", "README.md") == (0, "")

    (folder / "a.md").write_text("changed")
    assert program(folder.parent, "--check", str(file))[0] == 1  # files lie beside the README


def test_marker_of_a_missing_file_is_one_line(folder):
    (folder / "a.md").unlink()
    for check in ([], ["--check"]):
        status, text = program(folder, *check, "README.md")
        assert status == 1
        assert text == "error: the marker `from a.md` names a file that is not there\n"
    assert (folder / "README.md").read_text(encoding="utf-8") == TEXT


def test_missing_readme_is_no_traceback(folder):
    status, text = program(folder, "other.md")
    assert status == 2 and "other.md" in text and "Traceback" not in text


def structure(text):
    """What the pages of both languages share: all but the prose."""
    links = re.findall(r"\]\(([^)]+)\)", text)
    lines = text.splitlines()
    return {
        "headings": re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M),
        "links": [link.replace(".zh.md", ".md") for link in links],
        "code": re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL),
        "tables": [line.count("|") for line in lines if line.startswith("|")],
        "bullets": sum(line.startswith("- ") for line in lines),
        "spliced": re.findall(r"<!-- from .*?<!-- end -->", text, re.DOTALL),
    }


def test_both_readmes_have_the_same_structure():
    english, chinese = (
        structure((ROOT / name).read_text(encoding="utf-8"))
        for name in ("README.md", "README.zh.md")
    )
    for part, found in english.items():
        assert found == chinese[part] and found, part


def test_the_readmes_lead_to_each_other():
    assert "](README.zh.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](README.md)" in (ROOT / "README.zh.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the weights of a finished run")
def test_example_prints_what_the_readme_shows():
    """Word by word, but for figures that depend on the CPU."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = r"```python\n([^`]*check_port[^`]*)```\s+```text\n([^`]*)```"
    code, shown = re.search(blocks, text).groups()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [re.sub(r"\d\S*e-\d+|\d\.\d+", "N", out) for out in (done.stdout, shown)]
    assert found[0] == found[1] and "goes wrong first at operator" in shown
