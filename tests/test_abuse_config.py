"""Whatever the configuration holds, `snakemake -n` plans the run or says in one line what is wrong.

Each case is a file. It comes from a seed: a document built from the schema with mistakes put in, or
the project's own file with its text changed.
"""

import json
import random
import re

import door
import pytest
import yaml
from abuse import many
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from project import CONFIG, ROOT, Project

from npu_parity.config import schema

pytestmark = [pytest.mark.slow, pytest.mark.abuse("mutated configurations")]

BLOCKS, EACH = many(2, 40), many(5, 13)  # blocks of each source, cases of a block

# A document from the schema, and mistakes in it

STRINGS = {
    "backend": ["cpu", "npu", "cuda", "xpu", "mps", "onnxruntime"],
    "weights source": [
        *("seed:1", "path:tiny.py", "package:numpy/a.pth", "huggingface:a/b@main/c.safetensors"),
        "modelscope:a/b#sha256=" + "0" * 64,
    ],
    "input source": ["random:2", "synthetic:1", "skimage:coffee", "photo.png", "album"],
    "architecture": ["timm:resnet18", "torchvision:resnet18", "tiny.py:net", "models/svhn.py:svhn"],
    "name": ["a", "b-1", "C_2", "9", "net", "ab" * 9],
    "labels": ["labels.txt", "data/imagenet_1k.txt"],
    "published": ["svhn", "resnet34"],
    "reference": ["cpu"],
}

ODD_TEXT = st.text(max_size=20) | st.sampled_from(
    [
        *("", " ", "\n", "\t", "\x00", "\x1b[31m", "\u202e", "\ufeff", "模型", "é", "yes", "null"),
        *("~", "1", "1.5", "-", "- a", "a: b", "# a", "{x}", "{{", "%s", "$HOME", "..", "/", "."),
        *("a\nb", "a" * 300, "a" * 5000, "字" * 200, "'", '"', "\\", "/dev/zero", "path:", "seed:"),
        *("seed:-1", "seed:" + "9" * 20, "random:", "random:0", "skimage:", "path:a#b", "*", "&a"),
        *("timm:", ":", "a.py:", ".py:f", "a/b.py:f", "path:" + "a/" * 2000, "path:\x00", "\x7f"),
        *("path:.", "tiny.py", "away.png", "..:..", "__proto__", "constructor", "\r", "\u2028"),
    ]
)
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 10**6, 10**17, 2**63, 10**400])
    | st.floats()
    | st.dates()
    | st.binary(max_size=8)
    | ODD_TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(ODD_TEXT | st.integers() | st.none(), inner, max_size=3)
        | st.sets(st.integers(), max_size=2)
    ),
    max_leaves=6,
)


def valid(rule, key=None):
    """Strategy of values that a rule of the schema accepts."""
    if "$ref" in rule:
        name = rule["$ref"].rpartition("/")[2]
        return valid(schema()["$defs"][name], name)
    if "oneOf" in rule:
        return st.one_of([valid(choice) for choice in rule["oneOf"]])
    if "enum" in rule:
        return st.sampled_from(rule["enum"])
    kind, low = rule["type"], rule.get("minimum", rule.get("exclusiveMinimum", -1000) + 1)
    if kind == "string":
        return st.sampled_from(STRINGS.get(rule.get("format", key), ["a"]))
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        return st.integers(low, min(rule.get("maximum", 10**6), 10**6))
    if kind == "number":
        return st.floats(low, 1000)
    if kind == "array":
        most = min(rule.get("maxItems", 3), 3)
        return st.lists(valid(rule["items"]), min_size=rule.get("minItems", 0), max_size=most)
    keys = rule.get("properties", {})
    if keys:
        needed = {k: valid(r, k) for k, r in keys.items() if k in rule.get("required", ())}
        free = {k: valid(r, k) for k, r in keys.items() if k not in needed}
        return st.fixed_dictionaries(needed, optional=free)
    more = rule.get("additionalProperties", {"enum": [1, "a", None, [1.5], {"b": True}]})
    names = st.sampled_from(STRINGS["name"])
    return st.dictionaries(names, valid(more), min_size=rule.get("minProperties", 0), max_size=3)


def holders(value):
    """Every mapping and list in a value that is not empty."""
    children = value.values() if isinstance(value, dict) else value
    if value and isinstance(value, dict | list):
        yield value
        for child in children:
            yield from holders(child)


@st.composite
def documents(draw):
    """A file: a valid document with at most two mistakes, as YAML or JSON."""
    document = draw(valid(schema()))
    document["devices"]["cpu"] = {"backend": "cpu"}
    for _ in range(draw(st.integers(0, 2))):
        holder = draw(st.sampled_from(list(holders(document)) or [{}]))
        if not holder:
            break
        index = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else [-1, 0]))
        kind = draw(st.sampled_from(["value", "key", "less", "text"]))
        if kind == "value":
            holder[index] = draw(ODD)
        elif kind == "text":
            holder[index] = draw(ODD_TEXT)
        elif kind == "less":
            del holder[index]
        elif isinstance(holder, dict):
            holder[draw(ODD_TEXT | st.integers() | st.booleans())] = draw(st.just(holder[index]))
    form = draw(st.sampled_from(["block", "flow", "json"]))
    if form == "json":
        return json.dumps(document, default=str, skipkeys=True).encode()
    text = yaml.safe_dump(document, default_flow_style=form == "flow", sort_keys=False)
    return text.encode()


# The project's own file, its text changed

VALUES = [  # what YAML has, in the place of a value
    *("0o17", "017", "0x1F", "0b1", "1_000", "1e3", "1.5e400", ".inf", ".nan", "-.INF", "12:30:45"),
    *("yes", "NO", "on", "off", "y", "n", "True", "~", "null", "", "2024-01-02", "2024-13-45"),
    *(
        "2001-12-14t21:59:43.10-05:00",
        "!!int x",
        "!!float nan",
        "!!str 1",
        "!!binary aGk=",
        "!!null",
    ),
    *("!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!python/name:os.system", "!local x"),
    *("!<tag:yaml.org,2002:str> x", "!!python/object/apply:os.getcwd []", "&a b", "*a", "&a [*a]"),
    *("{<<: {a: 1}}", "{a: 1, a: 2}", "{? a}", "{[a]: b}", "[", "]", "{", "}", "[,]", "[[[[", "|"),
    *(
        ">-",
        "|\n  a\n  b",
        '"',
        "'",
        '"\\x00"',
        '"\\ud800"',
        '"\\U0001F600"',
        '"\\e[0m"',
        "'a\n\n b'",
    ),
    *("%", "@a", "`a`", "- - - a", "? a", ": a", "a: b", "#", "=", "<<", "a" * 5000, "9" * 5000),
    *("[" * 3000, "{a: " * 60 + "1" + "}" * 60, "[" + "1," * 200_000 + "]", "模型", "\u2028a", "-"),
    *("path:{a}", "seed:1\\n", "'path:\t'", "./-x", '"path:a\\nb"', "random:1e9", "[cpu, npu]"),
]
LINES = [  # a line of its own
    *("---", "...", "%YAML 1.1", "%YAML 9.9\n---", "%TAG ! tag:a,2000:", "<<: *a", "a: &a {b: 1}"),
    *("\t", "\ta: 1", "? [a, b]\n: 1", "1: a", "yes: a", "~: a", "2024-01-01: a", "? |\n  a\n: b"),
    *("x" * 200_000, "models:", "reference: npu", "  svhn: {}", "- a", "#" + "a" * 10_000, "[]"),
    *("modles: {}", "!!map {}", "? !!set {a}\n: b", "*a : b", "'a\n  b': c", '"\\n": 1', "= : 1"),
]
CONTROL = [0, 1, 7, 8, 9, 10, 11, 12, 13, 27, 127, 128, 0xA0, 0xC0, 0xE2, 0xF8, 0xFE, 0xFF]
MARKS = list(b":-[]{},#&*!|>'\"%@` \n\t?~=<")
ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "cp037", "punycode"]


def flipped(dice, text):
    at = dice.randrange(len(text))
    byte = dice.choice([dice.randrange(256), dice.choice(CONTROL), dice.choice(MARKS)])
    return text[:at] + bytes([byte]) + text[at + dice.randrange(2) :]


def lines_moved(dice, text):
    lines = text.split(b"\n")
    first, second = dice.randrange(len(lines)), dice.randrange(len(lines))
    kind = dice.randrange(5)
    if kind == 0:
        del lines[first]
    elif kind == 1:
        lines.insert(second, lines[first])
    elif kind == 2:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 3:
        del lines[first:second]
    else:
        lines[first] = dice.choice([b" ", b"  ", b"\t", b"    "]) + lines[first].lstrip()
    return b"\n".join(lines)


def line_added(dice, text):
    lines = text.split(b"\n")
    at = dice.randrange(len(lines))
    indent = b" " * (len(lines[at]) - len(lines[at].lstrip()))
    lines.insert(at, indent + dice.choice(LINES).encode())
    return b"\n".join(lines)


def value_exchanged(dice, text):
    found = list(re.finditer(rb"(?<=: )[^\s{\[,}\]]+|(?<=\[)[^\[\],]+|(?<=- )\S+", text))
    if not found:
        return text
    start, end = dice.choice(found).span()
    return text[:start] + dice.choice(VALUES).encode("utf-8") + text[end:]


def key_exchanged(dice, text):
    found = list(re.finditer(rb"\w+(?=:[ \n])", text))
    if not found:
        return text
    start, end = dice.choice(found).span()
    return text[:start] + dice.choice(VALUES).encode("utf-8") + text[end:]


def cut(dice, text):
    return dice.choice([text[: dice.randrange(len(text))], text[dice.randrange(len(text)) :]])


def encoded(dice, text):
    if not dice.randrange(3):
        return (
            text.decode("utf-8", "replace")
            .replace("systems", "systèmes")
            .encode("latin-1", "replace")
        )
    return text.decode("utf-8", "replace").encode(dice.choice(ENCODINGS), "replace")


def ends_exchanged(dice, text):
    return text.replace(b"\n", dice.choice([b"\r\n", b"\r", b"\n\n", b"\xc2\x85", b"\0", b" "]))


def doubled(dice, text):
    return text + dice.choice([b"", b"---\n", b"...\n---\n", b"...\n"]) + text


def inside(dice, text):
    """As the value of another key, as a list, as text."""
    start = dice.choice([b"a:\n", b"-\n", b"a: |\n", b"a: &b\n", b"? \n", b"!!set\n"])
    return start + b"\n".join(b"  " + line for line in text.split(b"\n"))


CHANGES = [
    *[flipped] * 4,
    *[lines_moved] * 4,
    *[value_exchanged] * 6,
    *[key_exchanged] * 2,
    *[line_added] * 4,
    *[cut, encoded, ends_exchanged, doubled, inside],
]


def changed_text(number):
    """The project's own configuration with one to three changes."""
    dice = random.Random(number)
    text = (ROOT / "config.yaml").read_bytes()
    for _ in range(dice.choice([1, 1, 2, 3])):
        text = dice.choice(CHANGES)(dice, text) or b"\n"
    return text


# The door

LINE = re.compile(
    r"error: config\.yaml( with --config or --configfile|, line \d+)?"
    r"( has \d+ bytes|: (it |this is not |found a key|found the tag|the key |YAML reads |.+: )).+"
    r"|error: device \w+: .+"  # of the machine, not of the file
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project.make(tmp_path_factory.mktemp("abuse"), CONFIG)


def plan(project, content, *arguments):
    """Plan a run of a configuration; return the line that refuses it, or None."""
    (project.folder / "config.yaml").write_bytes(content)
    command = project.command("--cores", "1", "--dry-run", *arguments)
    done = door.run(command, timeout=300)
    printed = done.stdout
    assert done.returncode in (0, 1), f"{done.returncode}: {printed}"
    if done.returncode == 0:
        return None
    told = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "Traceback" not in printed, printed
    assert len(printed.splitlines()) <= 3, printed
    assert len(told[0]) < 300 and told[0].isprintable() and LINE.fullmatch(told[0]), told
    return told[0]


@pytest.mark.parametrize("block", range(BLOCKS))
def test_changed_text(project, block, record_property):
    refused = [plan(project, changed_text(n)) for n in range(block * EACH, (block + 1) * EACH)]
    record_property("cases", EACH)
    record_property("refused", len([line for line in refused if line]))


@pytest.mark.parametrize("block", range(BLOCKS))
def test_documents_from_the_schema(project, block, record_property):
    refused = []

    @seed(block)
    @settings(
        max_examples=EACH,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(documents())
    def planned(content):
        refused.append(plan(project, content))

    planned()
    record_property("cases", len(refused))
    record_property("refused", len([line for line in refused if line]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "reference=3"], "--config or --configfile: reference: found 3"),
        (["--config", "modles=3"], "unknown key 'modles'; did you mean 'models'?"),
        (["--config", "models={photo: {task: x}}"], "configfile: models.photo.task: found 'x'"),
        (["--configfile", "more.yaml"], "latency.samples: found datetime.date(2024, 1, 2)"),
    ],
)
def test_command_line(project, arguments, words):
    (project.folder / "more.yaml").write_text("latency: {samples: 2024-01-02}\n")
    assert words in plan(project, yaml.safe_dump(CONFIG).encode(), *arguments)
