"""A study as a Markdown page and as JSON."""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from fl_privacy_audit.core import numbers

from .bootstrap import Difference, Estimate, Interval
from .plots import draw_forest, draw_scatter
from .result import StudyResult
from .table import title

MARKDOWN, JSON, SCATTER, FOREST = "study.md", "study.json", "scatter.png", "forest.png"

LIMITS = """\
- An interval *over images* asks about other originals under the same settings; an interval *over
  settings* asks about other models and attacks. A claim that one metric is better in general needs
  the second.
- A percentile interval is too narrow for few originals or settings (say, under ten): three
  settings in perfect order get an interval of no width.
- A metric may have been computed against an original that was shifted, mirrored or cropped before
  the attack. It then measures geometry as well as leakage, and the table cannot tell.
- Settings differ in many ways at once (model, training, defence). A correlation over them does not
  say which one moved people.
- A metric trained on judgements of these very images is not judged fairly by them.
- The labels are those of these annotators, asked this question. Where they disagree on when to say
  "cannot tell", every figure above moves with them."""


def write(result: StudyResult, out_dir: Path) -> tuple[Path, ...]:
    """Write the page, the data and both figures; files of an earlier study are replaced."""
    files = tuple(out_dir / name for name in (MARKDOWN, JSON, SCATTER, FOREST))
    page, data, scatter, forest = files
    page.write_text(markdown(result), encoding="utf-8")
    data.write_text(
        json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    draw_scatter(result, scatter)
    draw_forest(result, forest)
    return files


def markdown(result: StudyResult) -> str:
    """The whole page."""
    source = result.source
    parts = [
        "# Which metric follows people's eyes?",
        (
            f"`{source.table}` (sha256 `{source.sha256[:16]}`): {source.rows:,} reconstructions of "
            f"{source.originals:,} originals under {len(result.model_level.settings)} settings, "
            f"{len(source.raters)} annotators. Brackets hold 95 % percentile intervals of "
            f"{source.bootstraps:,} bootstrap draws (seed {source.seed}). Metrics are signed: positive, "
            "or above .5 for an AUC, means agreement with people."
        ),
        "## In short",
        (
            "Spearman and Kendall between the mean of a metric and the human rate over settings; AUC "
            "for recognition, image by image; share of clear human preferences that a metric "
            "contradicts."
        ),
        table(SHORT_HEADER, short_rows(result)),
        verdict(result),
        "## Model level",
        *_model_level(result),
        "## Image level",
        *_image_level(result),
        "## Contradictions",
        *_contradictions(result),
        "## Agreement between annotators",
        *_agreement(result),
        "## The human ceiling",
        *_ceiling(result),
        "## What this cannot show",
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


SHORT_HEADER = (
    "metric",
    "Spearman",
    "over settings",
    "Kendall",
    "pooled AUC",
    "same original",
    "against people",
)


def short_rows(result: StudyResult) -> list[list[str]]:
    """One row per metric: the figures most asked for."""
    rows = []
    for name, found in result.model_level.correlations.items():
        ranking = result.image_level.rankings[name]
        against = result.contradictions.people[name].clear_gap
        figures = (found.kendall, ranking.pooled, ranking.same_original, against)
        first = [number(found.spearman.value), _range(found.spearman.over_settings)]
        rows.append([title(name), *first, *(number(figure.value) for figure in figures)])
    return rows


def verdict(result: StudyResult) -> str:
    """What the intervals allow to be said, in two sentences."""
    differences, people = result.model_level.spearman_differences, result.ceiling
    apart = [
        f"{title(d.first)} and {title(d.second)}"
        for d in differences
        if d.estimate.over_settings and d.estimate.over_settings.excludes_zero
    ]
    which = f"{len(apart)} ({'; '.join(apart)})" if apart else "none"
    pairs = (
        f"Of {len(differences)} pairs of metrics, {which} can be told apart by Spearman over these "
        f"{len(result.model_level.settings)} settings. "
    )
    low, high = people.split
    return (
        f"{pairs if differences else ''}Annotators split {low} against {high} agree with one "
        f"another at {number(people.split_mean)} "
        f"({number(people.split_low)} to {number(people.split_high)})."
    )


number = partial(numbers.number, decimals=3)
"""Three decimals; "n/a" where not defined."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers lean right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _range(interval: Interval | None) -> str:
    return f"[{number(interval.low)}, {number(interval.high)}]" if interval else ""


def _with_images(estimate: Estimate) -> str:
    return f"{number(estimate.value)} {_range(estimate.over_images)}"


def _with_ranges(estimate: Estimate) -> list[str]:
    """Three cells."""
    ranges = (estimate.over_images, estimate.over_settings)
    return [number(estimate.value), *map(_range, ranges)]


def _model_level(result: StudyResult) -> list[str]:
    level = result.model_level
    rows = [
        [title(name), label, *_with_ranges(found)]
        for name, correlation in level.correlations.items()
        for label, found in (
            ("Spearman", correlation.spearman),
            ("Kendall tau-b", correlation.kendall),
            ("Pearson", correlation.pearson),
        )
    ]
    points = [
        [
            f"{i}. `{s.name}`",
            *(f"{s.images:,}", number(s.human), number(s.recognised)),
            *(f"{value:.4g}" for value in s.metrics.values()),
        ]
        for i, s in enumerate(level.settings, start=1)
    ]
    return [
        f"Mean of each metric against the share of right answers, {len(level.settings)} settings.",
        table(("metric", "coefficient", "value", "over images", "over settings"), rows),
        f"![Metric means against the human rate]({SCATTER})",
        f"![Intervals of every metric]({FOREST})",
        "Differences of Spearman between metrics, on the same draws:",
        _differences(level.spearman_differences, columns=4),
        (
            "The points of the figure (`human` is the share of right answers, `recognised` the share "
            "of images that more than half of the annotators classified correctly):"
        ),
        table(
            ("setting", "images", "human", "recognised", *map(title, level.correlations)), points
        ),
    ]


def _differences(differences: Iterable[Difference], *, columns: int) -> str:
    header = ("first minus second", "difference", "over images", "over settings")
    rows = [
        [f"{title(d.first)} - {title(d.second)}", *_with_ranges(d.estimate)] for d in differences
    ]
    return table(header[:columns], [row[:columns] for row in rows])


def _image_level(result: StudyResult) -> list[str]:
    level = result.image_level
    rows = [
        [title(name), *map(_with_images, (one.pooled, one.within_setting, one.same_original))]
        for name, one in level.rankings.items()
    ]
    return [
        (
            f"AUC for 'at least {level.threshold} of {len(result.source.raters)} right' "
            f"({level.recognised:.1%} of the images). Within setting: mean over {level.settings_used} "
            f"settings. Same original: {level.pairs_used:,} pairs."
        ),
        table(("metric", "pooled", "within setting", "same original"), rows),
        "Differences of pooled AUC:",
        _differences(level.pooled_differences, columns=3),
    ]


def _contradictions(result: StudyResult) -> list[str]:
    found = result.contradictions
    people = [
        [title(n), _with_images(p.clear_gap), _with_images(p.any_gap), number(p.settings)]
        for n, p in found.people.items()
    ]
    names = list(found.people)
    shares = {(b.first, b.second): number(b.share.value) for b in found.between}
    grid = [[title(a), *(shares.get((a, b), shares.get((b, a), "")) for b in names)] for a in names]
    return [
        (
            "Share of pairs ordered oppositely; .5 is chance. Against people, over pairs of the same "
            f"original that differ by at least {found.clear_gap} right answers "
            f"({found.clear_gap_pairs:,}), by any number ({found.any_gap_pairs:,}), and over pairs of "
            "settings:"
        ),
        table(("metric", "clear gap", "any gap", "settings"), people),
        f"Between metrics, over all {found.pairs:,} pairs of the same original:",
        table(("", *map(title, names)), grid),
    ]


def _agreement(result: StudyResult) -> list[str]:
    codings = [
        [c.meaning, str(c.categories), _with_images(c.fleiss), _with_images(c.krippendorff)]
        for c in result.agreement.codings.values()
    ]
    annotators = [
        [name, number(a.right), number(a.cannot_tell), number(a.right_if_answered)]
        for name, a in result.agreement.annotators.items()
    ]
    return [
        table(("coding", "categories", "Fleiss' kappa", "Krippendorff's alpha"), codings),
        table(("annotator", "right", "cannot tell", "right if answered"), annotators),
    ]


def _ceiling(result: StudyResult) -> list[str]:
    found = result.ceiling
    singles = [[name, number(s.spearman), number(s.auc)] for name, s in found.singles.items()]
    metrics = [[title(name), number(value)] for name, value in found.metric_auc.items()]
    low, high = found.split
    return [
        (
            f"Annotators split {low} against {high}, {found.splits} ways: Spearman over settings "
            f"{number(found.split_mean)} on average, {number(found.split_low)} to "
            f"{number(found.split_high)}. One annotator against all others:"
        ),
        table(("annotator", "Spearman over settings", "AUC over images"), singles),
        "A metric faces one annotator's answer on the same terms (pooled AUC, mean over annotators):",
        table(("metric", "AUC"), metrics),
    ]
