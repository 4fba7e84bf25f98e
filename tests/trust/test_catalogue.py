"""Every sentence of trust in the source has a row in the catalogue: a new one without a planted fault fails here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.endpoints import endpoints
from gateway.openapi import openapi
from tests.conftest import ROOT
from tests.trust import test_commands as commands
from tests.trust import test_page as page
from tests.trust import test_processes as processes
from tests.trust import test_served as served
from tests.trust.catalogue import Sentence

CATALOGUE: list[Sentence] = [
    *(each.sentence for each in page.PURE),
    *(each.sentence for each in page.SEEN),
    *page.LIVE,
    *(each.sentence for each in processes.STATUS),
    *(each.sentence for each in processes.LINES),
    *(each.sentence for each in served.BARS),
    *(each.sentence for each in served.SERVED),
    *(sentence for sentence, _ in served.STORED),
    *(sentence for sentence, _ in served.BOARD),
    *(sentence for sentence, *_ in served.TRADES),
    *(served.EVENT, served.FIRST_LOOK, served.UNREADY),
    *(each.sentence for each in commands.REPLAYED),
    *(each.sentence for each in commands.ROLLED_UP),
    *(sentence for sentence, _ in commands.SUMMARY),
]

SAID = "\n".join(each.said for each in CATALOGUE)
TOLD = "\n".join(text for each in CATALOGUE for text in (each.where, each.said, each.then))

VARIES = "\0"
"""Stands in a collected sentence for what is put in."""


def pattern(sentence: str) -> re.Pattern[str]:
    return re.compile(".*?".join(map(re.escape, sentence.split(VARIES))))


def is_sentence(text: str) -> bool:
    """Two words or more that begin with a capital letter or end with a full stop."""
    words = text.replace(VARIES, " ").split()
    return len(words) >= 2 and (text.lstrip(VARIES)[:1].isupper() or words[-1].endswith("."))


# --- the page ---


def literals(source: str) -> Iterator[str]:
    """The texts of a JavaScript source, also those inside of others; what is put into one is VARIES."""
    at = 0
    while at < len(source):
        if source.startswith(("//", "/*"), at):
            at = source.find("\n" if source[at + 1] == "/" else "*/", at) % (len(source) + 1)
        elif source[at] == '"':
            end = source.index('"', at + 1)
            yield source[at + 1 : end]
            at = end + 1
        elif source[at] == "`":
            text, at, inner = _template(source, at + 1)
            yield text
            yield from literals(inner)
        else:
            at += 1


def _template(source: str, at: int) -> tuple[str, int, str]:
    """A template from behind its first tick: its text, where it ends, and the code that is put in."""
    text, inner = "", ""
    while source[at] != "`":
        if source.startswith("${", at):
            begin, depth = at + 2, 1
            at = begin
            while depth:
                depth += {"{": 1, "}": -1}.get(source[at], 0)
                at += 1
            text, inner = text + VARIES, f"{inner}\n{source[begin : at - 1]}"
        else:
            text, at = text + source[at], at + 1
    return text, at + 1, inner


def source_of(path: str, function: str = "") -> str:
    text = (ROOT / "gateway/web/page" / path).read_text(encoding="utf-8")
    return text[text.index(f"function {function}(") :].partition("\n}\n")[0] if function else text


def of_page(path: str, function: str = "") -> list[str]:
    return [each for each in literals(source_of(path, function)) if is_sentence(each)]


NOTHING_WRONG = re.compile(r"(No|Nothing|Every|All)\b")
"""How a sentence begins that a table has instead of rows."""

NO_TRUST = {
    "No look at Redis yet.": "the streams' lengths, which nobody judges",
    "No bar was final yet.": "claims nothing",
    "No process shows a sign of life.": "bad news",
    f"No day {VARIES}was counted or audited yet. This page fills by itself.": "claims nothing",
    f"No trade id proves {VARIES} ": "no good news",
}
"""Sentences that look like those and are none, and why."""


def test_every_sentence_of_the_judgements_on_the_page_is_in_the_catalogue() -> None:
    sentences = [*of_page("trust.js"), *of_page("details.js", "standing")]
    assert len(sentences) > 40, "the rule finds them"
    assert [each for each in sentences if not pattern(each).search(TOLD)] == []


def test_every_good_sentence_on_the_page_has_a_fault() -> None:
    good = [
        each
        for line in source_of("trust.js").splitlines()
        if '"good"' in line or re.match(r"  (good|unaudited): \[", line)
        for each in literals(line)
        if is_sentence(each)
    ]
    assert len(good) > 8, "the rule finds them"
    assert [each for each in good if not pattern(each).search(SAID)] == []


def test_every_table_that_says_nothing_is_wrong_has_a_fault() -> None:
    found = [each for path in ("pipeline.js", "truth.js") for each in of_page(path) if NOTHING_WRONG.match(each)]
    claims = [each for each in found if each not in NO_TRUST]
    assert len(claims) >= 3, "the rule finds them"
    assert [each for each in claims if not pattern(each).search(SAID)] == []


# --- commands and the gateway ---

TRUSTED = re.compile(
    r"\b(all|alive|complete|exact|every|no|nothing|official|running|trusted|unexplained|whole)\b", re.I
)

MODULES = {
    "klagg/process/heartbeats.py": "klagg status, klagg up, /api/status",
    "klagg/cli/status.py": "klagg status",
    "klagg/cli/up/screen.py": "klagg up",
    "klagg/cli/audit/summary.py": "klagg audit --summary",
    "klagg/cli/comparison.py": "klagg replay and rollup",
    "klagg/kline.py": "the standing of a kline",
}


def texts_of(path: str) -> Iterator[str]:
    """The texts of a Python module without its docstrings and without the help of its options."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        help_of = [each.value for each in node.keywords] if isinstance(node, ast.Call) else []
        told = [node.value] if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else help_of
        if isinstance(node, ast.AnnAssign) and node.value and getattr(node.target, "id", "").endswith("_HELP"):
            told = [node.value]
        if isinstance(node, ast.JoinedStr):
            told = list(node.values)
        skipped.update(id(inner) for each in told for inner in ast.walk(each))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else VARIES for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


CLAIMS_NOTHING = {
    "there is no such bar": "bad news",
    "No bar was audited yet.": "says that nobody looked",
    "No day of this range was counted or audited yet.": "says that nobody looked",
    f"\nOpen findings about no single symbol: {VARIES}": "bad news",
}
"""Sentences with such a word that are no good news, and why."""


def test_every_sentence_of_trust_of_the_commands_is_in_the_catalogue() -> None:
    claims = [
        each
        for path in MODULES
        for each in texts_of(path)
        if TRUSTED.search(each) and len(each.split()) > 2 and each not in CLAIMS_NOTHING
    ]
    assert len(claims) >= 4, "the rule finds them"
    assert [each for each in claims if not all(part in TOLD for part in each.split(VARIES) if len(part) > 3)] == []


def test_every_good_state_and_standing_has_a_fault() -> None:
    words = {each for path in ("klagg/cli/up/screen.py", "klagg/kline.py") for each in texts_of(path)}
    found = sorted(words & {"running", "complete", "official"})
    assert found == ["complete", "official", "running"], "the rule finds them"
    assert [each for each in found if not re.search(rf"\b{each}\b", SAID)] == []


ABOUT_ELSE = {
    "live": "whether the exchange trades a symbol",
    "names_read": "whether the list of symbols is whole; what waits for it answers 503",
    "standing": "what sort of finding it is",
    "alarm": "the alarm live_stalled, which is among the alarms",
    "database": "a setting",
}
"""Truths of the API that are no words of trust in data, and what they are about."""


def test_every_truth_of_the_api_is_in_the_catalogue() -> None:
    schemas: dict[str, Any] = openapi(endpoints(["1m"], {}), token=False)["components"]["schemas"]
    fields = {
        name
        for schema in schemas.values()
        for name, kind in schema.get("properties", {}).items()
        if "boolean" in ([kind["type"]] if isinstance(kind.get("type"), str) else kind.get("type", []))
    }
    assert fields >= {"ok", "stale", "closed", "complete", "official"}, "the rule finds them"
    assert [each for each in sorted(fields - set(ABOUT_ELSE)) if not re.search(rf"\b{each}\b", SAID)] == []


NO_JUDGEMENT = {
    "X-Klagg-Left-Out": "how many symbols klagg does not carry",
    "X-Klagg-Asked-Ms": "when exchangeInfo was asked for",
}


def test_every_header_of_klagg_is_in_the_catalogue() -> None:
    sources = [each.read_text(encoding="utf-8") for each in (ROOT / "gateway").glob("*.py")]
    headers = {name for text in sources for name in re.findall(r'"(X-Klagg-[\w-]+)"', text)}
    assert len(headers) >= 4, "the rule finds them"
    assert [each for each in sorted(headers - set(NO_JUDGEMENT)) if each not in SAID] == []


@pytest.mark.parametrize("row", CATALOGUE, ids=lambda each: f"{each.where}: {each.fault}")
def test_a_row_can_be_false(row: Sentence) -> None:
    """What is said with the fault is not what is said without it."""
    assert row.said not in row.then
    assert row.wrong(row.said, row.then) == []
    assert len(row.wrong(row.said, row.said)) == 2
    assert row.wrong("", row.then)


def test_a_new_sentence_of_trust_is_noticed() -> None:
    """The rules would see one in each place."""
    good = 'return { level: "good", title, text: `All ${count(n, "bar")} are right.` };'
    (text,) = [each for each in literals(good) if is_sentence(each)]
    assert text == f"All {VARIES} are right."
    assert NOTHING_WRONG.match(text)
    assert not pattern(text).search(TOLD)
    assert TRUSTED.search("all bars are right")
