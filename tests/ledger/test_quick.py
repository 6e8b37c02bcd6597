"""The quick form of a record against the models, which are the obvious way to read a line."""

import json
import math
import random
from copy import deepcopy
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import BaseModel, TypeAdapter, ValidationError

from fl_privacy_audit.ledger.chain import unlinked
from fl_privacy_audit.ledger.quick import quick_record
from fl_privacy_audit.ledger.reading import FILE_NAME, Damage, decoded, read_lines
from tests.support.big_ledger import write_big_ledger
from tests.support.builders import QUICK
from tests.support.hostile_ledgers import FIELDS, Case, at, places

FIXTURES = Path(__file__).parent / "fixtures"
TOKENS = (
    *(b"0", b"-0", b"1", b"1.0", b"1e3", b"1E+3", b"01", b"1.", b".5", b"+1", b"0x1", b"1_0"),
    *(b"-0.0", b"2.2250738585072014e-308", b"5e-324", b"1e999", b"-1e999", b"1" * 5000),
    *(str(sign * 2**power + off).encode() for power in (53, 63, 64) for sign in (1, -1) for off in (-1, 0, 1)),
    *(b"NaN", b"Infinity", b"-Infinity", b'"NaN"', b'"Infinity"', b'"-Infinity"', b'"inf"', b'"1"'),
    *(b"true", b"false", b"null", b"None", b"[]", b"{}", b"[null]", b"[1,2]", b"[0.5,1]", b'[1,"2"]'),
    *(b'""', b'"x"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00"', b'"\\ud83d\\ude00"'),
    *(b'"\x00"', b'"\t"', b'"\\u0000"', b'"\\x"', b'"\x7f"', b'"\\/"', b'"unavailable: why"'),
    *(b'{"code":"x"}', b'{"code":"x","code":"y"}', b'{"code":1}', b'{"code":"x","more":[1]}'),
    *(b'{"code":"x","figures":{"a":1,"b":1.0,"c":"\\u001b","d":["z"],"a":2}}',),
    *(b'{"code":"x","figures":{"a":1e999}}', b'{"code":"x","figures":{"a":NaN}}'),
    *(b'{"code":"x","figures":{"a":99999999999999999999999}}', b'{"code":"x","figures":{"a":-0}}'),
    *(b'{"code":"x","cause":' * n + b'{"code":"y"}' + b"}" * n for n in (1, 40, 95, 150, 190, 195, 300)),
    *(b'{"code":"x","more":' + b"[" * n + b"]" * n + b"}" for n in (1, 90, 190, 197, 300)),
    *(b'{"lpips":"gone"}', b'{"lpips":{"code":"x"},"ssim":"gone"}', b'{"mean":1,"worst":1,"each":[1]}'),
)  # fmt: skip
"""Values as a line may have them, written by somebody else."""


NO_NUMBER = "Input should be a valid number"


def _refuses_long_integers() -> bool:
    """Whether this pydantic takes no integer beyond 64 bits for a float, as 2.11 does not."""
    try:
        TypeAdapter(float).validate_json(str(2**63))
    except ValidationError:
        return True
    return False


REFUSES_LONG_INTEGERS = _refuses_long_integers()


def _written() -> list[bytes]:
    with TemporaryDirectory() as place:
        data = (write_big_ledger(Path(place), 20) / FILE_NAME).read_bytes()
    return [unlinked(line) for line in data.splitlines()]


LINES = _written()
"""As they are written today, without their hashes."""
AUDITED = [LINES[1], LINES[5]]
"""Of an attacked record, and of one that was left out."""


def same(quick: Any, exact: Any) -> bool:
    """Whether a quick form has the fields of a model, with equal values of the same types."""
    if isinstance(exact, BaseModel) and isinstance(quick, msgspec.Struct | type(exact)):
        return all(
            same(getattr(quick, name), getattr(exact, name)) for name in type(exact).model_fields
        )
    if type(quick) is not type(exact):
        return False
    if isinstance(exact, dict):
        return list(quick) == list(exact) and all(map(same, quick.values(), exact.values()))
    if isinstance(exact, list | tuple):
        return len(quick) == len(exact) and all(map(same, quick, exact))
    if isinstance(exact, float):
        return repr(quick) == repr(exact)
    return bool(quick == exact)


def check(line: bytes) -> bool:
    """Compare both ways of reading a line; whether the quick one takes it."""
    quick = quick_record(line)
    if quick is None:
        return False
    exact = decoded(line, 1)
    if isinstance(exact, Damage):
        assert REFUSES_LONG_INTEGERS and exact.problem.endswith(NO_NUMBER), exact.problem
        return True
    assert same(quick, exact)
    return True


def test_it_takes_every_audited_record_that_is_written_today() -> None:
    taken = [check(line) for line in LINES]
    assert taken == [b'"kind":"audit"' in line for line in LINES]
    assert sum(taken) == 20


def test_a_number_that_is_not_finite_goes_to_the_models() -> None:
    line = AUDITED[0].replace(b'"objective":0.8034037351608276', b'"objective":"NaN"', 1)
    assert not check(line)
    record = decoded(line, 1)
    assert not isinstance(record, Damage)
    assert record.kind == "audit"
    assert math.isnan(record.attacks[0].controls[0].objective or 0.0)


def test_old_ledgers_go_to_the_models() -> None:
    for path in FIXTURES.glob("*/*/ledger.jsonl"):
        assert not any(check(line) for line in path.read_bytes().splitlines())


def test_readers_get_the_properties_of_the_model() -> None:
    for line in LINES:
        quick, exact = quick_record(line), decoded(line, 1)
        if quick is None or isinstance(exact, Damage) or exact.kind != "audit":
            continue
        assert quick.kind == exact.kind
        for one, other in zip(quick.attacks, exact.attacks, strict=True):
            assert one.allowed == other.allowed
            for kind in ("noise", "grey", "undefended"):
                assert same(one.control(kind), other.control(kind))


def test_whole_ledgers_are_read_the_same(tmp_path: Path) -> None:
    write_big_ledger(tmp_path, 20)
    for quick, exact in zip(read_lines(tmp_path, quick=True), read_lines(tmp_path), strict=True):
        assert same(quick, exact)


@pytest.mark.parametrize("token", TOKENS, ids=lambda token: token[:30].decode("ascii", "replace"))
def test_a_value_of_somebody_else(token: bytes) -> None:
    content = json.loads(AUDITED[0])
    ways = list(places(content))
    rng = random.Random(token)
    for way in [*ways[:40], *rng.sample(ways, 40)]:
        changed = deepcopy(content)
        at(changed, way[:-1])[way[-1]] = "HERE"
        line = json.dumps(changed, separators=(",", ":")).encode()
        check(line.replace(b'"HERE"', token))


@QUICK
@given(some.sampled_from(AUDITED), some.integers(0), some.binary(max_size=3), some.integers(0, 3))
def test_a_line_with_other_bytes(line: bytes, where: int, put: bytes, gone: int) -> None:
    where %= len(line)
    check(line[:where] + put + line[where + gone :])


@pytest.mark.parametrize("kind", FIELDS)
def test_hostile_lines(kind: str, tmp_path: Path) -> None:
    for seed in range(4):
        case = Case(tmp_path, tmp_path, list(LINES), random.Random(f"{kind} {seed}"))
        FIELDS[kind](case)
        for line in islice(cycle(case.lines), 40):
            check(line)


def test_a_key_that_stands_twice_counts_the_last_time() -> None:
    line = AUDITED[0]
    assert check(line[:-1] + b',"round":7}')
    assert quick_record(line[:-1] + b',"round":7}').round == 7  # type: ignore[union-attr]
    assert not check(line[:-1] + b',"kind":"run"}')


def test_reasons_that_come_again_are_one() -> None:
    quick = quick_record(AUDITED[0])
    assert quick is not None
    assert isinstance(quick, msgspec.Struct)
    assert quick.attacks[0].chosen is quick.attacks[1].chosen
