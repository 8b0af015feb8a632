"""A card says what the results say, in two languages, and never with a field left empty."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from modelscope.hub.constants import Licenses
from project import ROOT

from npu_parity import __main__ as program
from npu_parity import config
from npu_parity.errors import ParityError
from npu_parity.report import about, cards, hubs, results, tables, terms
from npu_parity.verdict import published

pytestmark = pytest.mark.slow

CONFIG = config.load(ROOT / "config.yaml")
SYSTEMS = list(CONFIG["models"])
# Which devices were measured depends on the machine.
ROWS = json.loads((ROOT / "results/summary.json").read_text(encoding="utf-8"))["rows"]
RUNS = list(dict.fromkeys(f"{row['device']}/{row['run']}" for row in ROWS))
RUNS.remove("npu/published")
CHINESE = re.compile("[\u4e00-\u9fff]")
SEPARATOR = re.compile(r"\|[:|-]+\|")


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def system(name, runs=RUNS):
    return results.describe(Path("results") / name, runs, CONFIG["models"][name])


def texts(name):
    return about.read(CONFIG["models"][name]["about"])


@pytest.fixture(scope="module", params=SYSTEMS)
def both(request):
    """The name of a system and its card in both languages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        name = request.param
        yield name, *(cards.body(system(name), texts(name), lang) for lang in cards.FILES)


def cells(text):
    """The cells of all tables of a page, row by row."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    rows = [row for row in rows if not SEPARATOR.fullmatch(row)]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def structure(text):
    """What two languages of a page must share."""
    return {
        "headings": re.findall(r"^(#+) ", text, re.MULTILINE),
        "tables": [len(row) for row in cells(text)],
        "code": re.findall(r"```.*?```", text, re.DOTALL),
        "links": re.findall(r"\]\((.*?)\)", text),
        "bullets": len(re.findall(r"^- ", text, re.MULTILINE)),
    }


def numbers(row):
    return re.findall(r"\d+\.\d+(?:e-\d+)?|\d{3,}", " ".join(row))


# What it says


def test_both_languages_have_the_same_structure_and_figures(both):
    _, english, chinese = both
    assert structure(english) == structure(chinese)
    assert [numbers(row) for row in cells(english)] == [numbers(row) for row in cells(chinese)]


def test_the_committed_card_is_what_the_results_give(both):
    for text, file in zip(both[1:], cards.FILES.values(), strict=True):
        assert (ROOT / "results" / both[0] / file).read_text(encoding="utf-8") == text


def test_every_published_figure_has_its_place(both):
    """Each number of a report stands in the card of its system."""
    report = CONFIG["models"][both[0]].get("published")
    shown = {word for row in cells(both[1]) for cell in row for word in [cell, *cell.split()]}
    for path, value in leaves(published.figures()[report]) if report else ():
        if "output_shape" in path:
            continue
        ways = {tables.number(value, digits) for digits in range(2, 11)}
        ways |= {tables.metric(key, value) for key in path if isinstance(key, str)}
        assert ways & shown, (path, value)


def leaves(found, path=()):
    """Yield every number of a mapping with its path."""
    if isinstance(found, dict | list):
        items = found.items() if isinstance(found, dict) else enumerate(found)
        for key, value in items:
            yield from leaves(value, (*path, key))
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield path, found


@pytest.mark.parametrize("key", ["max_abs_error", "l2_error", "prob_mean_abs_error"])
def test_another_number_in_the_results_is_another_number_in_the_card(key):
    changed = system("resnet34")
    changed.metrics["npu/predicted"][key] = 0.777
    for language in cards.FILES:
        shown, before = (
            cards.body(found, texts("resnet34"), language)
            for found in (changed, system("resnet34"))
        )
        assert any("0.777" in row for row in cells(shown)) and "0.777" not in before


def test_no_number_is_typed_in_a_template():
    allowed = {"1 %", "2021", "32", "5", "1", "64"}  # a rule, Top 5, float32, float64
    for language in cards.FILES:
        text = (Path(cards.__file__).parent / cards.TEMPLATES[language]).read_text(encoding="utf-8")
        prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|```.*?```|`.*?`", "", text, flags=re.DOTALL)
        assert set(re.findall(r"\d+(?:\.\d+)?", prose)) <= allowed


def test_an_emulated_run_is_never_a_measurement(both):
    name, english, chinese = both
    assert "**Predicted, not measured.**" in english and "并非 NPU 实测" in chinese
    assert "npu measured" not in english and "npu 实测" not in chinese
    assert "parity-predicted" in hubs.tags(system(name), texts(name))
    row = next(row for row in cells(english) if row[0] == "latency_ms")
    header = next(row for row in cells(english) if row[0] == "Field")
    assert row[header.index("npu predicted")] == "—"


def test_a_measured_npu_is_named():
    measured = system("resnet34")
    measured.run["onnxruntime/measured"]["backend"] = "npu"
    assert "**Measured on an NPU**: onnxruntime measured" in cards.body(measured, texts("resnet34"))
    assert "parity-measured" in hubs.tags(measured, texts("resnet34"))


def test_chinese_is_complete(both):
    """Every heading, label and finding is translated; names and figures are not."""
    name, _, chinese = both
    prose = re.sub(r"```.*?```", "", chinese, flags=re.DOTALL).splitlines()
    assert all(CHINESE.search(line) for line in prose if re.match("#|- ", line))
    header = [row for row in cells(chinese) if row[0] in ("指标", "运行", "输入", "输出头", "时间")]
    assert header and all(CHINESE.search(c) for row in header for c in row), name
    for text in tables.FIGURES.values():
        assert CHINESE.search(terms.translator("zh")(text))


FINDINGS = {
    "FAIL (question 1, same program: batch_norm eps 1e-05 where the reference has 0.001, at bn2)": (
        "不通过（问题 1，程序是否相同：batch_norm eps 1e-05，而参考为 0.001（位于 bn2））"
    ),
    "no: question 1, same program, was not asked; question 2, same kernels, was not asked": (
        "否：问题 1（程序是否相同）未检查；问题 2（算子是否相同）未检查"
    ),
    "no: input cat: relative L2 error 0.000928 where float32 allows 5.08e-06 (and 2 more)": (
        "否：输入 cat：相对 L2 误差为 0.000928，float32 允许 5.08e-06（另有 2 条）"
    ),
    "input cat: top-1 is 3 where the reference has 5 with a margin of 0.2; only a margin below 0.1 "
    "may flip": ("输入 cat：Top-1 为 3，而参考为 5，间隔 0.2；只有间隔小于 0.1 时才允许不同"),
    "no: operator 3 aten.conv at a.b: 12 times its bound (found 1 at [0, 1], exact 2)": (
        "否：算子 3（aten.conv，位于 a.b）的误差为其误差界的 12 倍"
        "（在 [0, 1] 处得到 1，精确值为 2）"
    ),
    "input a, already on the reference's device: error 0.1 of column 2 of head b where float32 "
    "allows 0.01": (
        "输入 a，在参考设备上运行时已经不同：输出头 b 第 2 列的误差为 0.1，float32 允许 0.01"
    ),
    "reference, input cat: nan in column 3": "参考，输入 cat：第 3 列为 nan",
    "outputs of input a use 8 mantissa bits where the reference uses 24: the port rounds them, or "
    "stores them in fewer bits": (
        "输入 a 的输出使用 8 位尾数，而参考使用 24 位：移植版本对其做了舍入，或以更少的位数存储"
    ),
    "conv keeps 7 mantissa bits of its operands (bf16) where the device promises hf32": (
        "conv 的操作数只保留 7 位尾数（bf16），而设备声明为 hf32"
    ),
    "aten.relu of the reference is missing, at layer1": "缺少参考中的 aten.relu（位于 layer1）",
    "a, 10 parameters; weights pretrained: b. Inputs: 3; crop 8 (configuration). Reference: c.": (
        "a，参数量 10；权重为预训练权重：b。输入 3 个；预处理：crop 8（配置文件）。参考：c。"
    ),
}


@pytest.mark.parametrize("text", FINDINGS)
def test_findings_in_chinese(text):
    assert terms.translator("zh")(text) == FINDINGS[text]


def test_every_word_of_a_translated_sentence_is_one_that_the_code_writes():
    """A sentence whose words were changed in the code would stay English."""
    package = ROOT / "npu_parity"
    texts = [package / "report/templates/page.html", *(package / "data/about").glob("*.yaml")]
    written = [file.read_text(encoding="utf-8") for file in texts]
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                written.append(node.value)
    words = set(re.findall(r"\w+", "\n".join(written)))
    known = yaml.safe_load((package / "report" / terms.FILES["zh"]).read_text(encoding="utf-8"))
    for text in known:
        found = re.findall(r"\w+", re.sub(r"\{n?\}", " ", text))
        assert found == [] or {*found} <= words, (text, {*found} - words)


def test_words_of_classes_and_files_are_not_translated():
    frame = tables.pd.DataFrame(
        [{"Input": "mean", "npu predicted": "yes", "npu predicted match": "yes"}]
    )
    found = terms.table(frame, terms.translator("zh"), names=True)
    assert list(found.iloc[0]) == ["mean", "yes", "是"]
    assert list(found) == ["输入", "npu 预测", "npu 预测 一致"]
    assert list(terms.table(frame, terms.translator("en")).iloc[0]) == ["mean", "yes", "yes"]


# What it refuses


@pytest.mark.parametrize(
    "line",
    [
        "path: $weight",
        "path: ${weight}",
        "path: {{ weight }}",
        "{% if weight %}",
        "source: None",
        "cosine nan",
        "| cosine |  |",
        "| cosine | None |",
        "| cosine | nan |",
        "| file | `` |",
        "cosine: , error 1",
        "余弦相似度：；",
    ],
)
def test_an_empty_or_unexpanded_field_is_refused(line):
    with pytest.raises(ParityError, match="line 2 has an empty or unexpanded field") as error:
        cards.require_complete(f"# Title\n{line}\n", "net")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    ["| a | — |", "weights: seed:42", "found NaN in input cat", "| `None` of these: 0.9 | 1 |"],
)
def test_a_full_line_is_no_mistake(line):
    cards.require_complete(f"# Title\n{line}\n", "net")


def test_braces_of_bibtex_are_its_own():
    cards.require_complete("```bibtex\n@a{b, title = {{Deep}}}\n```\n", "net")
    with pytest.raises(ParityError, match="line 4"):
        cards.require_complete("```bibtex\n@a{b, title = {{Deep}}}\n```\n{{Deep}}\n", "net")


@pytest.mark.parametrize(
    ("change", "left"),
    [({"source": "$weight"}, "$weight"), ({"introduction": {"en": "{{ text }}"}}, "{{ text }}")],
)
def test_a_text_with_a_variable_is_refused(change, left):
    with pytest.raises(ParityError, match=re.escape(left)):
        cards.body(system("resnet34"), about.About(**change))


def test_a_number_that_is_missing_is_refused():
    broken = system("resnet34")
    broken.metrics["npu/predicted"]["cosine_similarity"] = float("nan")
    with pytest.raises(ParityError, match=r"unexpanded field: found '. cosine similarity"):
        cards.body(broken, texts("resnet34"))


@pytest.mark.parametrize("language", cards.FILES)
def test_names_and_findings_may_be_anything(language):
    """A class may be called None, and a port may compute nan: there is a card nevertheless."""
    odd = system("resnet34")
    odd.labels[:] = ["None", "nan", "$100 bill", "", "{{ a }}"] * 200
    odd.inputs["names"][0] = "nan"
    found = odd.metrics["onnxruntime/measured"]
    reason = "reference, input nan: nan in column 3"
    found["verdict_line"] = f"FAIL (question 3, same answer: {reason})"
    found["questions"][2].update(passed=False, findings=[reason])
    text = cards.body(odd, texts("resnet34"), language)
    assert "`nan`" in text and f"`{terms.translator(language)(reason)}`" in text


def test_unknown_language_and_hub():
    with pytest.raises(ParityError, match="language 'fr' is unknown: expected one of en, zh"):
        cards.body(system("resnet34"), texts("resnet34"), "fr")
    with pytest.raises(ParityError, match="hub 'x' is unknown: expected one of gitcode"):
        cards.card(system("resnet34"), texts("resnet34"), "x", "en")


def test_a_system_without_texts_has_a_card():
    text = cards.body(system("efficientnet_lite0"), about.About())
    assert text.startswith("# efficientnet_lite0 on Ascend NPU")
    assert "Licence of the weights: not stated." in text


def test_the_reference_alone_has_a_card():
    text = cards.body(system("resnet34", RUNS[:1]), texts("resnet34"))
    assert "This card has no run of an NPU." in text and "## Verdict" not in text


# Front matter


def matter(hub, name="resnet34", language="en", of=None):
    text = cards.card(of or system(name), texts(name), hub, language)
    _, found, body = text.split("---\n", 2)
    return yaml.safe_load(found), body


def test_gitcode():
    found, body = matter("gitcode", language="zh")
    assert found["hardware"] == "NPU" and found["language"] == ["zh"]
    assert {"NPU", "Ascend", "ascend-npu"} <= set(found["tags"])
    first = body.strip().splitlines()[0]
    assert first.split() == [f"#+{tag}" for tag in found["tags"]] and first.startswith("#+NPU #+")


def test_modelers():
    found, body = matter("modelers")
    assert found["hardwares"] == ["NPU"] and found["frameworks"] == ["PyTorch"]
    assert found["pipeline_tag"] == "image-classification" and found["library_name"] == "pytorch"
    assert body.strip().startswith("# ")


def test_modelscope_has_its_own_licence_names():
    found, _ = matter("modelscope")
    assert found["license"] == "Apache License 2.0" and found["tasks"] == ["image-classification"]
    assert {"frameworks", "language", "metrics", "tags"} <= found.keys()
    assert set(hubs.MODELSCOPE_LICENSES.values()) == set(Licenses.to_list())
    assert matter("modelscope", "svhn_digit")[0]["license"] == "MIT"
    nothing = about.About()
    described = system("efficientnet_lite0")  # trained; the texts state no licence
    assert "license: other" in cards.card(described, nothing, "modelscope", "en")


@pytest.mark.parametrize("name", SYSTEMS)
def test_hugging_faces_client_reads_its_own(name):
    text = cards.card(system(name), texts(name), "huggingface", "en")
    card = ModelCard(text)
    assert card.data.license in ("apache-2.0", "mit") and card.data.language == "en"
    assert card.data.pipeline_tag in hubs.TASKS.values() and card.data.eval_results is None
    assert "model-index" not in text and ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_weights_of_a_hub_name_their_repository_and_licence():
    trained = system("efficientnet_b0")
    repo = "timm/efficientnet_b0.ra_in1k"
    trained.weights.update(repo=repo, source=f"huggingface:{repo}", pretrained=True)
    found, _ = matter("huggingface", "efficientnet_b0", of=trained)
    assert (found["base_model"], found["license"]) == (repo, "apache-2.0")
    assert "base_model" not in matter("huggingface", "efficientnet_b0")[0]  # drawn from a seed


# Texts about a system


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: a", "found the key 'name', expected the keys title, source"),
        ("title: [a]", "title: found ['a'], expected text"),
        ("tags: a", "tags: found 'a', expected a list"),
        ("- a", "found no mapping"),
        ("a: [", "found no YAML"),
    ],
)
def test_mistakes_in_a_text_are_one_line(tmp_path, text, problem):
    file = tmp_path / "about.yaml"
    file.write_text(text)
    with pytest.raises(ParityError, match=re.escape(problem)):
        about.read(str(file))


def test_missing_text():
    with pytest.raises(ParityError, match=r"about none.yaml: there is no such file"):
        about.read("none.yaml")


# The command


def test_the_command_prints_or_writes_the_card(capsys, tmp_path):
    program.card("resnet34", "gitcode", "zh", None, ROOT / "config.yaml")
    printed = capsys.readouterr().out
    program.card("resnet34", "gitcode", "zh", tmp_path / "a.md", ROOT / "config.yaml")
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == printed
    assert "python inference.py" in printed and "](assets/divergence.svg)" in printed


def test_results_without_the_reference_are_one_line(tmp_path):
    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    with pytest.raises(ParityError, match="has no results of the reference: run `snakemake"):
        program.card("resnet34", "gitcode", "en", None, tmp_path / "config.yaml")


def test_graders_fields_are_the_metrics():
    from npu_parity.report import graded

    found = graded.fields(system("efficientnet_b0"), "onnxruntime/measured")
    stored = json.loads(
        Path("results/efficientnet_b0/onnxruntime/measured/metrics.json").read_text()
    )
    assert found["cosine_similarity"] == stored["prob_cosine_similarity"]  # as configured
    assert found["match_within_1_percent"] is (stored["mean_relative_error"] < 0.01)
    timed = json.loads(
        Path("results/efficientnet_b0/onnxruntime/measured/latency.json").read_text()
    )
    assert found["latency_ms"] == timed["batch_sizes"]["1"]["mean"]
    assert found["pretrained_used"] is False and found["local_weight_used"] is False


# The documentation

COUNTERPART = re.compile(r"^\| (?!Report)(\w+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def test_every_counterpart_is_a_heading_of_its_card():
    text = (
        (ROOT / "docs/cards.md").read_text(encoding="utf-8").partition("<!-- counterparts -->")[2]
    )
    found = COUNTERPART.findall(text)
    assert {name for name, _ in found} == {
        s for s in SYSTEMS if CONFIG["models"][s].get("published")
    }
    for name in {name for name, _ in found}:
        headings = re.findall(r"^##+ (.*)$", cards.body(system(name), texts(name)), re.MULTILINE)
        named = {heading for of, heading in found if of == name}
        assert named <= set(headings), name
        unnamed = set(headings) - named
        assert len(unnamed) < len(headings) / 2, (name, unnamed)


def test_documented_text_can_be_read(tmp_path):
    page = (ROOT / "docs/cards.md").read_text(encoding="utf-8")
    example = next(b for b in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "title" in b)
    (tmp_path / "about.yaml").write_text(example, encoding="utf-8")
    assert about.read(str(tmp_path / "about.yaml")).title == "ResNet-34"
