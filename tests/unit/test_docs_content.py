"""Links lead somewhere, run.yaml snippets are valid, named files exist, and generated pages do not drift."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from clipctl.contract import names
from clipctl.contract.errors import ClipError, ExitCode
from clipctl.contract.metric_names import OPERATOR_METRICS, TRAINER_METRICS
from clipctl.contract.sections import DataSection, ScaleSection
from clipctl.contract.spec import RunSpec
from clipctl.specfields import field_paths
from clipctl.specfile import parse_spec

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
FILE_LIKE = re.compile(
    r"^(?:clipctl|operator|trainer|charts|manifests|testkit|tests|scripts|docs|examples|benchmarks|\.ci)/[\w./-]*\w$"
)
WHOLE_SPEC = {"name", "model", "data", "train", "checkpoint"}
# What a snippet of a run.yaml is completed with before it is checked.
MINIMAL = b"""
name: snippet
model: {name: ViT-B-32}
data: {train: "s3://b/d"}
train: {global_batch: 4096, steps: 10}
checkpoint: {path: "s3://b/r"}
"""


def text_of(page):
    return page.read_text(encoding="utf-8")


def anchors(page):
    """The anchors GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    broken = []
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_named_files_exist(page):
    named = [code for code in INLINE.findall(FENCE.sub("", text_of(page))) if FILE_LIKE.match(code)]
    assert [name for name in named if not (ROOT / name).exists()] == []


def snippets():
    for page in PAGES:
        for number, (language, block) in enumerate(FENCE.findall(text_of(page))):
            if language == "yaml":
                yield pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for path in sorted((ROOT / "examples").glob("*/run*.yaml")):
        yield pytest.param(text_of(path), id=str(path.relative_to(ROOT)))


def check_snippet(block):
    """A whole run.yaml, or top-level sections of one."""
    present = set(re.findall(r"^(\w+):", block, re.MULTILINE))
    assert present
    lines = [line for line in MINIMAL.decode().splitlines() if line.partition(":")[0] not in present]
    parse_spec((block + "\n" + "\n".join(lines) + "\n").encode(), "snippet")


@pytest.mark.parametrize("block", list(snippets()))
def test_run_yaml_snippets_are_valid(block):
    check_snippet(block)


def test_the_minimal_spec_needs_all_its_sections():
    for name in WHOLE_SPEC:
        rest = [line for line in MINIMAL.decode().splitlines() if not line.startswith(f"{name}:")]
        with pytest.raises(ClipError):
            parse_spec("\n".join(rest).encode(), "snippet")
    with pytest.raises(ClipError):
        check_snippet("train: {global_batch: 64, steps: 1, speed: 3}")


def test_generated_pages_do_not_drift():
    done = subprocess.run(
        [sys.executable, "scripts/make_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def reference():
    return runpy.run_path(str(ROOT / "scripts" / "make_reference.py"))


def test_the_run_yaml_page_has_every_field_with_a_meaning(reference):
    page = reference["RunYaml"]().page()
    for path in field_paths():
        assert f"| `{path.rpartition('.')[2]}` |" in page, path
    for section in (DataSection, ScaleSection, RunSpec):
        for name in section.model_fields:
            (row,) = [line for line in _section(page, section) if line.startswith(f"| `{name}` |")]
            assert len(row.split(" | ")) == 4
            assert row.split(" | ")[3].strip(" |"), f"{name} has no meaning"


def _section(page, section):
    heading = {RunSpec: "## Top level", DataSection: "## `data`", ScaleSection: "## `scale`"}[section]
    _, _, rest = page.partition(f"{heading}\n")
    assert rest
    return re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0].splitlines()


def test_the_metrics_page_has_every_metric(reference):
    page = reference["metrics_page"]()
    missing = [m.name for m in (*TRAINER_METRICS, *OPERATOR_METRICS) if f"| `{m.name}` | {m.kind} |" not in page]
    assert missing == []


def test_the_exit_code_page_has_every_code(reference):
    page = reference["exit_codes_page"]()
    assert [code for code in ExitCode if f"| {int(code)} | `{code.name}` |" not in page] == []


def test_an_undescribed_exit_code_is_noticed(reference):
    meanings = reference["MEANINGS"]
    taken = meanings.pop(ExitCode.HUNG)
    try:
        with pytest.raises(AssertionError):
            reference["exit_codes_page"]()
    finally:
        meanings[ExitCode.HUNG] = taken


def test_cells_cannot_break_a_table(reference):
    assert reference["table"](("a",), [("x | y\nz",)]) == "| a |\n| --- |\n| x \\| y z |\n"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_labels_and_annotations_in_the_text_are_real(page):
    real = {value for value in vars(names).values() if isinstance(value, str) and value.startswith(names.DOMAIN)}
    named = set(re.findall(rf"{re.escape(names.DOMAIN)}/[a-z-]+", text_of(page)))
    assert named <= real | {f"{names.DOMAIN}/schema"}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_metrics_in_the_text_are_real(page):
    real = {metric.name for metric in (*TRAINER_METRICS, *OPERATOR_METRICS)}
    named = {code for code in INLINE.findall(text_of(page)) if re.fullmatch(r"clip_(train|run)_\w+", code)}
    assert named <= real


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_fields_in_the_text_are_real(page):
    """Inline code such as `retry.ttl_seconds` names a field of run.yaml, or a section."""
    fields = set(field_paths()) | {path.rpartition(".")[0] for path in field_paths()}
    fields |= {f"{prefix}.{name}" for prefix in ("eval.zero_shot", "eval.retrieval") for name in ("data", "classes")}
    sections = "|".join(RunSpec.model_fields)
    named = {code for code in INLINE.findall(text_of(page)) if re.fullmatch(rf"(?:{sections})\.[a-z_.]+[a-z]", code)}
    code_like = {name for name in named if name.endswith((".py", ".yaml", ".json"))}
    assert named - code_like - fields - CHART_VALUES == set()


CHART_VALUES = {"metrics.rules", "env.AWS_ENDPOINT_URL"}


def test_nothing_promises_what_does_not_exist():
    """Words that only plans use, outside of the lists of what is not there yet."""
    for page in PAGES:
        for number, line in enumerate(text_of(page).splitlines(), 1):
            assert not re.search(r"\b(coming soon|will be supported|in the future we)\b", line, re.IGNORECASE), (
                f"{page.name}:{number}: {line}"
            )
