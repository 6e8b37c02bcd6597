"""Settings side by side: leakage beside accuracy beside epsilon, or a refusal that says why."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fl_privacy_audit.core.errors import NotComparableError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import View
from fl_privacy_audit.dp import ClaimCheck
from fl_privacy_audit.dp.run_check import check_run, reported_epsilons
from fl_privacy_audit.ledger.ledger import LastRun, last_run
from fl_privacy_audit.ledger.runs import WEIGHTS, RunHead
from fl_privacy_audit.metrics import METRICS

from .facts import AttackFacts, GatheredRun, gather, gather_ledger
from .identified import Identified
from .rules import judge_run, views_of
from .sets import SetFigure, set_figures
from .verdict import NetLeakage, SettingVerdict, Word

__all__ = ["FREE_KEYS", "Comparison", "LastRun", "MetricSummary", "Row", "compare", "last_run"]

FREE_KEYS = {
    "directory",
    "setting",
    "profile",
    "tester",
    "retest_days",
    "keep_pictures",
    "fail_fast",
    "device",
    "metrics",
    "threads",
    "training.max_grad_norm",
    "training.noise_multiplier",
    "views",
    "canary",
    "controls",
    "claim",
    "defence",
}
"""Audit settings in which comparable runs may differ."""


class MetricSummary(BaseModel):
    """One metric over the audited records of a setting.

    Attributes:
        mean: Over records; a record's value is the mean over its images.
        worst: The image that leaks most.
        count: Records scored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    mean: float
    worst: float
    count: int


class Row(BaseModel):
    """One setting under one attack.

    Attributes:
        setting: The run's word for itself.
        attack: Name of the attack.
        accuracy: After the last round that was evaluated, by the server if it evaluates, else by
            clients; None if nobody did.
        epsilon_reported: The largest that a client reported; None if none did.
        epsilon_in_effect: The largest that a client has spent over all rounds, computed from the
            settings (PLD, add or remove); None if it could not be computed.
        epsilon_measured: At least so much was measured by canaries in replays; None if nothing was.
        identified: How many true images are picked out among candidates by their reconstruction; None
            where nothing was ranked.
        scores: By metric.
        sets: Metrics of all kept pictures together, where they were asked for.
        attacked: Records on which the attack ran to an end.
        not_scored: Of those, records without truth.
        failed: Records on which the attack failed.
        not_tested: Records it was not run on.
        view: What the attacker saw.
        verdict: The word of `fl_privacy_audit.verdicts.verdict` for this row.
        reason: Why.
        net: Net leakage against the null control that leaves least; None without controls.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    setting: str
    attack: str
    accuracy: float | None
    epsilon_reported: float | None
    epsilon_in_effect: float | None
    epsilon_measured: float | None = None
    identified: Identified | None = None
    scores: dict[str, MetricSummary]
    sets: dict[str, SetFigure] = {}
    attacked: int
    not_scored: int
    failed: int
    not_tested: int
    view: View
    verdict: Word
    reason: Reason
    net: NetLeakage | None


class Comparison(BaseModel):
    """What ``comparison.json`` holds.

    Attributes:
        rows: In the order of the directories.
        notes: What a reader has to know.
        runs: Run id of each directory.
        verdicts: One for each setting and view: the worst of its rows.
        dp: Setting -> what became of its DP claim, for settings that have something to check.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    schema_version: int = 3
    rows: list[Row]
    notes: list[Reason]
    runs: dict[str, str]
    verdicts: list[SettingVerdict] = []
    dp: dict[str, ClaimCheck] = {}


def compare(
    directories: Sequence[str | Path],
    runs: Sequence[str | None] | None = None,
    *,
    sets: bool = False,
) -> Comparison:
    """Summarise a run of each directory.

    Args:
        directories: Of ledgers, or their files.
        runs: See `fl_privacy_audit.ledger.runs.read_run`, one for each; the last ones by default.
        sets: Whether to compute the metrics of whole sets from kept pictures, which loads torch.

    Raises:
        LedgerError: A ledger cannot be read.
        NotComparableError: The runs differ in more than the defence.
    """
    named = zip(directories, runs or [None] * len(directories), strict=True)
    gathered = [gather_ledger(directory, run=run) for directory, run in named]
    return compare_runs(gathered, sets=sets)


def compare_runs(runs: Sequence[LastRun | GatheredRun], *, sets: bool = False) -> Comparison:
    """Summarise runs, in the order given; `sets` as in `compare`.

    Raises:
        NotComparableError: The runs differ in more than the defence, or there is none.
    """
    if not runs:
        raise NotComparableError("there is nothing to compare: give at least one directory")
    return _compare([gather(run) for run in runs], sets=sets)


def _compare(runs: Sequence[GatheredRun], *, sets: bool) -> Comparison:
    notes = list(dict.fromkeys(note for run in runs for note in run.notes))
    differences = [d for other in runs[1:] for d in _differences(runs[0], other)]
    if differences:
        raise NotComparableError(
            "these runs cannot be compared:\n  " + "\n  ".join(dict.fromkeys(differences))
        )
    if len(runs) > 1 and not all(_digests(run) for run in runs):
        notes.append(Reason.of("no truth to pair runs"))
    verdicts = [judge_run(run) for run in runs]
    checks = [check_run(run) for run in runs]
    each = zip(runs, verdicts, checks, strict=True)
    rows = [row for run, found, check in each for row in _rows(run, found, check, sets=sets)]
    counts = {(r.view, max(s.count for s in r.scores.values())) for r in rows if r.scores}
    if len(counts) > len({view for view, _ in counts}):
        notes.append(Reason.of("different counts"))
    return Comparison(
        rows=rows,
        notes=notes,
        runs=_ids(runs),
        verdicts=[verdict for found in verdicts for verdict in found],
        dp={r.run.setting: c for r, c in zip(runs, checks, strict=True) if c is not None},
    )


def _ids(runs: Sequence[GatheredRun]) -> dict[str, str]:
    """Directory -> id; several with commas between."""
    ids: dict[str, list[str]] = {}
    for run in runs:
        ids.setdefault(str(run.path.parent), []).append(run.run.run)
    return {directory: ", ".join(found) for directory, found in ids.items()}


def _differences(first: GatheredRun, other: GatheredRun) -> list[str]:
    names = f"{first.run.setting!r} and {other.run.setting!r}"
    found = []
    if first.run.setting == other.run.setting:
        found.append(f"two runs are both called {first.run.setting!r}; set `setting` apart")
    here, there = first.run.model, other.run.model
    if here.get("layout") != there.get("layout"):
        found.append(
            f"{names} train different models: {here.get('name')} and {there.get('name')} differ in "
            "their parameters"
        )
    for key, mine, theirs in _flat_differences(first.run.config, other.run.config):
        found.append(f"{names} differ in the audit setting `{key}`: {mine!r} and {theirs!r}")
    scored = {run.run.versions.get(WEIGHTS) for run in (first, other)} - {None}
    if len(scored) > 1:
        found.append(
            f"{names} were scored by different weights of SemSim, {' and '.join(sorted(map(str, scored)))}: "
            "run both with one version of this package"
        )
    views = {*views_of(first)} & {*views_of(other)}
    where, elsewhere = _attacked(first, views), _attacked(other, views)
    if where != elsewhere:
        odd = sorted(where ^ elsewhere)
        found.append(
            f"{names} attack different rounds or clients: round {odd[0][0]}, client {odd[0][1]} "
            "is attacked in one alone; pair them by partition with audit_mod, and give both the "
            "same seeds"
        )
    digests, others = _digests(first), _digests(other)
    unlike = sorted(k for k in digests.keys() & others.keys() if digests[k] != others[k])
    if unlike:
        found.append(
            f"{names} saw different images: round {unlike[0][0]}, client {unlike[0][1]} trained "
            "on another batch; give both runs the same data and seeds"
        )
    return found


def _flat_differences(
    here: dict[str, Any], there: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    found = []
    for key in sorted(here.keys() | there.keys()):
        if prefix + key in FREE_KEYS:
            continue
        a, b = here.get(key), there.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _flat_differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((prefix + key, a, b))
    return found


def _attacked(run: GatheredRun, views: Collection[View]) -> set[tuple[int, str]]:
    """Rounds and clients; the release goes by a name of its own."""
    return {(r.round, r.client) for r in run.replies if r.attacked and r.view in views}


def _digests(run: GatheredRun) -> dict[tuple[int, str], str]:
    return {(r.round, r.client): r.truth_digest for r in run.replies if r.truth_digest}


def accuracy_of(run: RunHead) -> float | None:
    """After the last round that was evaluated, by the server if it evaluates, else by clients."""
    measured = [e for e in run.evaluations if "accuracy" in e.metrics]
    by_server = [e for e in measured if e.source == "server"]
    accuracies = [e.metrics["accuracy"] for e in by_server or measured]
    return accuracies[-1] if accuracies else None


def epsilon_in_effect(check: ClaimCheck | None) -> float | None:
    """The largest that a client has spent over all rounds; None if it could not be computed."""
    clients = [] if check is None else check.clients
    return max((spent.cumulative.pld for spent in clients), default=None)


def epsilon_reported(run: LastRun | GatheredRun) -> float | None:
    """The largest that a client reported."""
    series = reported_epsilons(run).values()
    return max((epsilon for each in series for _, epsilon in each), default=None)


def _rows(
    run: GatheredRun,
    verdicts: Sequence[SettingVerdict],
    check: ClaimCheck | None,
    *,
    sets: bool,
) -> list[Row]:
    accuracy, epsilon = accuracy_of(run), epsilon_reported(run)
    rows = []
    for verdict in (one for setting in verdicts for one in setting.attacks):
        facts = run.facts.views[verdict.view].of(verdict.attack)
        status = facts.status
        rows.append(
            Row(
                setting=run.run.setting,
                attack=verdict.attack,
                accuracy=accuracy,
                epsilon_reported=epsilon,
                epsilon_in_effect=epsilon_in_effect(check),
                epsilon_measured=None if check is None else check.epsilon_measured,
                identified=run.facts.identified.get((verdict.view, verdict.attack)),
                scores=_summaries(facts),
                sets=set_figures(run, verdict.view, verdict.attack) if sets else {},
                attacked=status["scored"] + status["not scored"],
                not_scored=status["not scored"],
                failed=status["failed"],
                not_tested=status["not tested"],
                view=verdict.view,
                verdict=verdict.word,
                reason=verdict.reason,
                net=verdict.net,
            )
        )
    return rows


def _summaries(facts: AttackFacts) -> dict[str, MetricSummary]:
    return {
        name: MetricSummary(mean=total.sum / total.count, worst=total.worst, count=total.count)
        for name in METRICS
        if (total := facts.totals.get(name)) is not None
    }
