"""Ledgers that somebody damaged, or wrote to harm who reads them."""

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_privacy_audit.ledger.ledger import FILE_NAME

MARK = "Zq7"
"""Begins what must stay text wherever a hostile text is shown."""
TEXTS = (
    "=cmd|' /C calc'!A0",
    "+1+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(A1:A9)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\x1b[31mred\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\",
    "\x9b31mred\x9d0;title\x9c",
    "\u202egnp.exe\u2066\u200f\u061c",
    "\u2028line\u2029paragraph\u0085next\x0b\x0c",
    "\U000e0041\U000e0042\ufeff\u200b\u2060",
    "\x00\x01\x7f\x08\x08",
    f"<script>{MARK}</script>",
    f"<img src=x onerror=alert(1)>{MARK}",
    f'" onload="alert(1)" \'{MARK}',
    f"]]>--><svg/onload=alert(1)>{MARK}",
    f"</title></style></svg><iframe src=//evil.example>{MARK}",
    f"[bold red]{MARK}[/bold red]",
    "[/]",
    "[link=http://evil.example]x[/link] :bomb:",
    f"[{MARK}](http://evil.example)",
    f"![{MARK}](http://evil.example/x.png)",
    "http://evil.example www.evil.example <http://evil.example> evil@evil.example",
    f"| {MARK} | x |\n|---|---|\n# {MARK}\n\n- {MARK}",
    "- x",
    "1. x",
    "---",
    "    code",
    "```\nx",
    f"[x]: http://evil.example '{MARK}'",
    "{0.__class__} {figures} {x!r:>{y}} { } }{",
    "%s %(x)s %n",
    "$\\frac{1}{2}$ $x_$ \\",
    "&lt;script&gt; &#60; &amp;",
    "../../etc/passwd",
    "",
    "\ud7ff\ufffe\uffff",
    "x" * 20_000,
    "wide \U0001f469\u200d\U0001f469\u200d\U0001f467 \u0e33\u0e33 " + "\u0301" * 50,
)
NUMBERS = (
    *(0, -1, 1, 10**30, -(10**30), 2**31, 2**63, 2**63 - 1, -(2**63) - 1, 2**64, 10**400),
    *(0.0, -0.0, 0.5, 1e308, -1e308, 5e-324, 1e-30, 1e30, -1.0),
    *(float("nan"), float("inf"), float("-inf")),
)
DEEP = '{"a":' * 5000 + "1" + "}" * 5000
OTHERS: tuple[Any, ...] = (
    *(None, True, False, [], {}, [None], [[]], {"": ""}, {"a": {"a": [1, "x"]}}, [1, 2, 3]),
    *([[[[[[[["deep"]]]]]]]], {"name": "x"}, [{"name": "x"}], "NaN", "Infinity", "1", "1e999"),
)


@dataclass
class Case:
    """A ledger while it is spoiled.

    Attributes:
        folder: Of the ledger.
        outside: Beside it: what no reader may look at.
        lines: Complete lines, without their ends.
        rng: For everything that is drawn.
        end: What stands after the last line.
        data: The whole file, where it is not made of `lines`.
        file: False where there is no regular file to write: it was put there already.
    """

    folder: Path
    outside: Path
    lines: list[bytes]
    rng: random.Random
    end: bytes = b"\n"
    data: bytes | None = None
    file: bool = True

    @property
    def path(self) -> Path:
        return self.folder / FILE_NAME

    def any(self) -> int:
        return self.rng.randrange(len(self.lines))

    def of_kind(self, kind: str) -> list[int]:
        return [i for i, line in enumerate(self.lines) if f'"kind":"{kind}"'.encode() in line]

    def audits(self) -> list[int]:
        return self.of_kind("audit")

    def scored(self) -> list[int]:
        return [i for i in self.audits() if b'"status":"scored"' in self.lines[i]]

    def edit(self, where: int, change: Callable[[Any], Any]) -> None:
        content = json.loads(self.lines[where])
        change(content)
        self.lines[where] = json.dumps(content, separators=(",", ":")).encode()

    def edit_some(self, where: list[int], change: Callable[[Any], Any]) -> None:
        """Of one line, or of many."""
        share = self.rng.choice([0.0, 0.3, 1.0])
        some = [i for i in where if self.rng.random() < share] or self.rng.sample(where, 1)
        for each in some:
            self.edit(each, change)

    def write(self) -> None:
        if self.file:
            lines = b"\n".join(self.lines) + self.end
            self.path.write_bytes(lines if self.data is None else self.data)


def places(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value."""
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    for key, value in items:
        yield (*before, key)
        yield from places(value, (*before, key))


def at(content: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        content = content[key]
    return content


def put(content: Any, way: tuple[Any, ...], value: Any) -> None:
    at(content, way[:-1])[way[-1]] = value


Spoil = Callable[[Case], None]


def _replace(kinds: tuple[type, ...], pool: tuple[Any, ...], lines: str = "") -> Spoil:
    """Put one of `pool` where a value of these kinds stood, in one line or many."""

    def spoil(case: Case) -> None:
        where = case.of_kind(lines) if lines else list(range(len(case.lines)))
        sample = json.loads(case.lines[case.rng.choice(where)])
        ways = [w for w in places(sample) if type(at(sample, w)) in kinds]
        ways = [w for w in ways if w[-1] not in ("kind", "schema_version", "run")] or ways
        way, value = case.rng.choice(ways), case.rng.choice(pool)

        def change(content: Any) -> None:
            with suppress(KeyError, IndexError, TypeError):
                put(content, way, value)

        case.edit_some(where, change)

    return spoil


def _drop(case: Case) -> None:
    def change(content: Any) -> None:
        way = case.rng.choice(list(places(content)))
        del at(content, way[:-1])[way[-1]]

    case.edit_some(list(range(len(case.lines))), change)


def _add(case: Case) -> None:
    def change(content: Any) -> None:
        ways = [(), *places(content)]
        way = case.rng.choice([w for w in ways if isinstance(at(content, w), dict)])
        key = case.rng.choice([*TEXTS, "picture", "__class__", "setting"])
        at(content, way)[key] = case.rng.choice([*OTHERS, *NUMBERS, *TEXTS])

    case.edit_some(list(range(len(case.lines))), change)


def _twice(case: Case) -> None:
    where = case.any()
    line = case.lines[where]
    case.lines[where] = line[:-1] + b"," + line[1:]


def _digits(case: Case) -> None:
    """A whole number of more digits than Python writes."""
    where = case.any()
    numbers = list(re.finditer(rb"(?<=[:,\[])\d+(?=[,\]}])", case.lines[where]))
    if numbers:
        start, end = case.rng.choice(numbers).span()
        line, many = case.lines[where], b"9" * case.rng.choice([400, 5000])
        case.lines[where] = line[:start] + many + line[end:]


def _version(case: Case) -> None:
    version = case.rng.choice([0, 4, 99, -1, "3", 3.0, None])
    case.edit_some(list(range(len(case.lines))), lambda c: c.update(schema_version=version))


def _kind(case: Case) -> None:
    kind = case.rng.choice(["note", "Run", "", None, *TEXTS])
    case.edit_some(list(range(len(case.lines))), lambda c: c.update(kind=kind))


def _deep(case: Case) -> None:
    where = case.any()
    case.lines[where] = case.lines[where][:-1] + f',"details":{DEEP}}}'.encode()


def _deep_reason(case: Case) -> None:
    reason: dict[str, Any] = {"code": "text", "figures": {"text": "end"}}
    for _ in range(case.rng.choice([50, 180, 900])):
        reason = {"code": case.rng.choice(["text", "unavailable", "x"]), "cause": reason}
    case.edit_some(case.audits(), lambda c: c.update(reason=reason))


def _reason(case: Case) -> None:
    from fl_privacy_audit.report.words import REASONS

    code = case.rng.choice([*REASONS, *TEXTS])
    names = ("metric", "mean", "low", "against", "leaking", "lacking", "own", "allowed", "ratio",
             "records", "batches", "text", "message", "path", "explained", "pairs", "noise")  # fmt: skip
    figures = {n: case.rng.choice([*TEXTS, *NUMBERS, ["x"], []]) for n in case.rng.sample(names, 6)}
    reason = {"code": code, "figures": figures, "cause": case.rng.choice([None, {"code": code}])}

    def change(content: Any) -> None:
        content["schema_version"] = 3
        if case.rng.random() < 0.3:
            content["reason"] = reason
        for one in content["attacks"]:
            one.update(reason=reason)
            one.update(chosen=reason if case.rng.random() < 0.3 else None)

    case.edit_some(case.audits(), change)


def _at_config(*names: str) -> Spoil:
    """A value of any type for a setting of the run."""

    def spoil(case: Case) -> None:
        value = case.rng.choice([*OTHERS, *NUMBERS, *TEXTS])
        way = ("config", *case.rng.choice([n.split(".") for n in names]))

        def change(content: Any) -> None:
            with suppress(KeyError, TypeError, IndexError):
                put(content, way, value)

        case.edit_some(case.of_kind("run"), change)

    return spoil


def _claim(case: Case) -> None:
    rng = case.rng
    claim: dict[str, Any] = {
        "mechanism": rng.choice(["dp-sgd", "central-gaussian", "local-gaussian", "x"]),
        "delta": rng.choice([1e-5, 1e-300, 0.999, 5e-324]),
        "epsilon": rng.choice([None, 1e-300, 8.0, 1e300]),
        "clipping_norm": rng.choice([1.0, 1e-300, 1e300]),
        "noise_multiplier": rng.choice([0.0, 1e-300, 1e-9, 1.0, 1e300]),
        "sample_rate": rng.choice([1.0, 1e-300, 0.02, 0.999999]),
        "steps_per_round": rng.choice([1, 10**6, 10**15, 10**30]),
        "sigma": rng.choice([None, 0.0, 1e-300, 1e300]),
        "sampled_clients": rng.choice([None, 1, 10**18]),
        "sampling": "poisson",
    }
    case.edit_some(case.of_kind("run"), lambda c: c["config"].update(claim=claim))


def _scores(case: Case) -> None:
    each = [case.rng.choice(NUMBERS) for _ in range(case.rng.choice([0, 1, 3]))]

    def change(content: Any) -> None:
        for one in content["attacks"]:
            for score in one["scores"].values():
                score["each"] = each
                score["mean"] = case.rng.choice(NUMBERS)

    case.edit_some(case.scored(), change)


def _metrics(case: Case) -> None:
    one = {"each": [0.5], "mean": 0.5, "worst": 0.5}
    names = [case.rng.choice(TEXTS) + str(i) for i in range(case.rng.choice([1, 2000]))]
    alone = case.rng.random() < 0.5

    def change(content: Any) -> None:
        for each in content["attacks"]:
            kept = {} if alone else each["scores"]
            each["scores"] = {**kept, **dict.fromkeys(names, one)}

    case.edit_some(case.scored()[:3], change)


def _attacks(case: Case) -> None:
    def change(content: Any) -> None:
        first = content["attacks"][0]
        first.pop("controls", None)
        names = [case.rng.choice(TEXTS)[:200] + str(i) for i in range(1000)]
        content["attacks"] = [{**first, "attack": name} for name in names]

    case.edit(case.rng.choice(case.scored()), change)


def _images(case: Case) -> None:
    def change(content: Any) -> None:
        for one in content["attacks"]:
            for score in one["scores"].values():
                score["each"] = score["each"][:1] * 20_000

    case.edit(case.rng.choice(case.scored()), change)


def _runs(case: Case) -> None:
    for where in case.of_kind("run")[:1]:
        run = json.loads(case.lines[where])
        case.lines[:0] = [json.dumps({**run, "run": f"r{i}"}).encode() for i in range(3000)]


def _run_ids(case: Case) -> None:
    value = case.rng.choice(["", "nobody", *TEXTS])
    case.edit_some(list(range(len(case.lines))), lambda c: c.update(run=value))


def _no_run(case: Case) -> None:
    for where in reversed(case.of_kind("run")):
        del case.lines[where]


def _run_again(case: Case) -> None:
    """The same run's first line once more, with another word for itself."""
    found = case.of_kind("run")
    if not found:  # spoiled before
        return
    case.lines.append(case.lines[found[0]])
    case.edit(len(case.lines) - 1, lambda c: c.update(setting=case.rng.choice(TEXTS)))


TEXT, NUMBER = (str,), (int, float)
EVERYTHING = (*OTHERS, *NUMBERS, *TEXTS)
CONTAINERS = (list, dict)
FIELDS: dict[str, Spoil] = {
    "text of any line": _replace(TEXT, TEXTS),
    "text of a run": _replace(TEXT, TEXTS, "run"),
    "text of an audit": _replace(TEXT, TEXTS, "audit"),
    "number of any line": _replace(NUMBER, NUMBERS),
    "number of a run": _replace(NUMBER, NUMBERS, "run"),
    "number of an audit": _replace(NUMBER, NUMBERS, "audit"),
    "number of an evaluation": _replace(NUMBER, NUMBERS, "evaluation"),
    "wrong type": _replace((*TEXT, *NUMBER, bool, type(None)), EVERYTHING),
    "wrong type of a list or mapping": _replace(CONTAINERS, EVERYTHING),
    "wrong type in a run": _replace((*TEXT, *NUMBER, *CONTAINERS), EVERYTHING, "run"),
    "field dropped": _drop,
    "field added": _add,
    "keys twice": _twice,
    "thousands of digits": _digits,
    "unknown version": _version,
    "unknown kind": _kind,
    "deep nesting": _deep,
    "deep reason": _deep_reason,
    "hostile reason": _reason,
    "hostile image of the settings": _at_config("image", "image.shape", "image.mean"),
    "hostile training of the settings": _at_config(
        "training", "training.noise_multiplier", "training.max_grad_norm", "training.steps"
    ),
    "hostile attacks of the settings": _at_config("attacks", "views", "metrics", "defence"),
    "hostile budget": _at_config("every", "clients_per_round", "seconds_per_round", "seed"),
    "hostile claim": _at_config("claim"),
    "claim with absurd numbers": _claim,
    "hostile scores": _scores,
    "names of metrics": _metrics,
    "thousand attacks": _attacks,
    "images without number": _images,
    "thousands of runs": _runs,
    "wrong run ids": _run_ids,
    "no run line": _no_run,
    "run line twice": _run_again,
}
"""Kind -> what it does to fields of records."""
