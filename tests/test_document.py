"""A YAML file is read strictly: every mistake is one line with the file and the line number."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from project import ROOT

from npu_parity.errors import ParityError
from npu_parity.evidence import document


@pytest.fixture
def refusal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refusal(content):
        (tmp_path / "a.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ParityError) as error:
            document.read("a.yaml")
        text = str(error.value)
        assert text.startswith("a.yaml") and len(text) < 300 and len(text.splitlines()) == 1
        return text

    return refusal


def test_the_projects_own_file_is_read_as_yaml_reads_it():
    found = document.read(ROOT / "config.yaml")
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    assert found.data == yaml.safe_load(text)
    lines = text.splitlines()
    for place in (("models", "svhn"), ("models", "resnet34", "labels"), ("devices", "npu")):
        assert lines[found.lines[place] - 1].strip().startswith(f"{place[-1]}:")
    assert found.where(("models", "svhn", "none")).endswith(
        f"config.yaml, line {found.lines['models', 'svhn']}"
    )


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=10,
)


@given(PLAIN)
def test_plain_values_are_read_as_they_were_written(tmp_path_factory, value):
    file = tmp_path_factory.getbasetemp() / "plain.yaml"
    file.write_text(yaml.safe_dump({"value": value}, allow_unicode=True), encoding="utf-8")
    assert document.read(file).data == {"value": value}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: 1\na: 2\n", "line 2: the key a is already on line 1"),
        ("a:\n  yes: 1\n", 'line 2: a: YAML reads yes as true or false; for text write "yes"'),
        ("1: a\n", "line 1: YAML reads the key 1 as 1"),
        ("a: yes\n", 'line 1: a: YAML reads yes as true or false; for text write "yes"'),
        ("a:\n- 010\n", "line 2: a[0]: YAML reads 010 as a number in another notation"),
        ("a: 12:30\n", "another notation"),
        ("a: 0x10\n", "another notation"),
        ("a: .inf\n", "another notation"),
        ("a: 2024-01-02\n", "a date"),
        ("a: 2024-13-45\n", "a date"),
        ("a: !!int x\n", "for text write"),
        ("a: !!binary aGk=\n", "!!binary"),
        ("a: !!set {x}\n", "!!set"),
        ("a: !!python/object:os.system {}\n", "python/object"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "merge"),
        ("? [a, b]\n: 1\n", "a key that is no text"),
        ("a: [1\n", "this is not YAML"),
        ("a: b: c\n", "line 1: this is not YAML"),
        ("\ta: 1\n", "this is not YAML"),
        ("a: *x\n", "this is not YAML"),
        ("a: 1\n---\nb: 2\n", "this is not YAML"),
        (b"a: \xff\xfe\n", "line 1: this is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "this is not UTF-8"),
        (b"a: 1\nb: \x00\n", "line 2: this is not YAML (a control character)"),
        ("[" * 3000, "nested more than 50 levels deep"),
        ("{a: " * 100 + "1" + "}" * 100, "nested more than 50 levels deep"),
        ("a: " + "x" * 2_000_000, "expected at most 1000000"),
    ],
    ids=str,
)
def test_what_is_refused(refusal, content, words):
    assert words in refusal(content)


def test_a_value_of_the_command_line_has_no_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("a: {b: 1, c: [2]}\nd: 3\n")
    found = document.read("a.yaml")
    found.override({"a": {"c": [4, 5]}})
    places = (("a", "b"), ("a", "c"), ("a", "c", 0), ("d",))
    given = "a.yaml with --config or --configfile"
    assert [*map(found.where, places)] == ["a.yaml, line 1", given, given, "a.yaml, line 2"]


def test_aliases_do_not_multiply_without_end(refusal):
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "more than 50000 values" in refusal("\n".join(["l0: &l0 [1, 2]", *levels]))


@pytest.mark.parametrize("place", ["away.yaml", "folder"])
def test_no_file(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ParityError, match=rf"^{place} (is missing|is no file): "):
        document.read(place)


def test_an_empty_file_says_nothing(tmp_path):
    (tmp_path / "a.yaml").touch()
    assert document.read(tmp_path / "a.yaml").data is None
