"""What a report says first: verdicts, what was tested, how sure that is, what to do; and what it says once."""

import numpy as np
import pytest

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.dp.gaussian import gaussian_epsilon
from fl_privacy_audit.ledger.records import ProbedMechanism
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.report.conditions import fits
from fl_privacy_audit.report.dp import dp_sections, joint_checklist, probed_text
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.html.plots import draw_distribution, draw_recognisable, draw_tradeoff
from fl_privacy_audit.report.html.plots_series import draw_rounds
from fl_privacy_audit.report.lines import score_text, worst_image
from fl_privacy_audit.report.opening import headline, how_sure, next_step, what_was_tested
from fl_privacy_audit.report.summary import AuditSummary, SettingSummary, summarise
from fl_privacy_audit.report.words import LEAKS_ALL_THE_SAME
from fl_privacy_audit.verdicts.recognition import Recognisable
from fl_privacy_audit.verdicts.verdict import ReplayFit
from tests.support.report_builders import write_sweep

from .test_html_page import FEW, Page


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    return summarise(write_sweep(tmp_path_factory.mktemp("sweep"), FEW))


@pytest.fixture(scope="module")
def page(summary: AuditSummary) -> Page:
    return Page(render_html(summary))


def test_the_first_lines_say_what_to_do(summary: AuditSummary, page: Page) -> None:
    step = next_step(summary)
    assert step in page.text and " ".join(how_sure(summary).split()) in page.text
    words = [{v.word for v in setting.verdicts} for setting in summary.settings]
    (safe,) = [n for n, found in enumerate(words) if found == {"withstood these attacks"}]
    assert (
        f"withstood in every view ({safe + 1}, {summary.settings[safe].setting}, accuracy" in step
    )
    assert "treat what clients sent under settings 1, 3-4 as known" in step
    others = [setting for n, setting in enumerate(summary.settings) if n != safe]
    none = summary.model_copy(update={"settings": others})
    assert "no setting withstood in every view" in next_step(none)
    assert next_step(summary.model_copy(update={"settings": []})) == ""
    verdicts = [
        v.model_copy(update={"word": "inconclusive"}) for v in summary.settings[safe].verdicts
    ]
    others.append(summary.settings[safe].model_copy(update={"verdicts": verdicts}))
    doubtful = next_step(summary.model_copy(update={"settings": others}))
    assert "take setting 4 for a leak until more is known" in doubtful


def test_a_setting_that_leaked_elsewhere_is_not_offered_as_safe(summary: AuditSummary) -> None:
    clipping = "Flower ServerSide fixed clipping"

    def counted(setting: SettingSummary) -> SettingSummary:
        found = {}
        for verdict in setting.verdicts:
            found[verdict.view, verdict.attack] = Recognisable()
            chance = 0.1 if setting.setting == clipping else 0.9
            found[verdict.view, verdict.attack].add([chance] * 4)
        return setting.model_copy(update={"recognisable": found})

    changed = [counted(setting) for setting in summary.settings]
    shown = summary.model_copy(update={"settings": changed})
    said = headline(shown, "release")
    assert f"{clipping}: 0.4 of 4 attacked images" in said
    assert said.endswith("(but it leaked in the server view).")
    assert "but it leaked" not in headline(shown, "server")


def test_the_worst_image_is_named_beside_the_worst_record(summary: AuditSummary) -> None:
    primary = summary.primary
    assert primary is not None
    for setting in summary.settings:
        for verdict in setting.verdicts:
            found = worst_image(setting, verdict)
            mine = [
                r for r in setting.records if r.view == verdict.view and r.attack == verdict.attack
            ]
            assert found is not None
            assert found[0] == METRICS[primary].worst([x for r in mine for x in r.each[primary]])


def test_settings_whose_description_fits_alike_share_a_sentence(summary: AuditSummary) -> None:
    def with_fit(setting: SettingSummary, cosine: float, fitting: int) -> SettingSummary:
        hint = None if fitting == 5 else Reason.of("taken as frozen", names=["0.weight"])
        fit = ReplayFit(records=5, fitting=fitting, cosine=cosine, length_ratio=1.0, hint=hint)
        verdicts = [
            v.model_copy(update={"replay": fit, "word": "leaked"})
            for v in setting.verdicts
            if v.view == "server"
        ]
        return setting.model_copy(update={"verdicts": verdicts})

    found = [(1.0, 5), (0.99995, 5), (0.5, 5), (0.2, 2)]
    changed = [with_fit(s, *fit) for s, fit in zip(summary.settings, found, strict=True)]
    said = fits(summary.model_copy(update={"settings": changed}))
    assert [text[: text.index(":")] for text in said] == [
        "Server view, settings 1-2",
        "Server view, setting 3",
        "Server view, setting 4",
    ]
    assert "fits 10 of 10 records" in said[0] and "median cosine 0.99995 to 1.00000" in said[0]
    assert "as its noise allows" in said[1]
    assert "fits 2 of 5 records" in said[2] and LEAKS_ALL_THE_SAME in said[2]


def test_a_question_that_all_claims_answer_alike_is_answered_once(summary: AuditSummary) -> None:
    sections = dp_sections(summary)
    joint = dict(joint_checklist(sections))
    assert len(sections) > 1
    assert joint["Floating point and timing"] == [("", "not checked")]
    noises = joint["Noise multiplier in effect"]
    assert len(noises) > 1 and all(where.startswith("Setting") for where, _ in noises)
    for section in sections:
        for question, answer in section.checklist:
            wheres = [where for where, given in joint[question] if given == answer]
            assert len(wheres) == 1


def test_a_probe_is_told_at_the_delta_of_the_claim() -> None:
    probed = ProbedMechanism(
        view="server",
        by=["mod"],
        sensitivity=(1.0, 1.0, 1.0),
        noise=(1.0, 1.0, 1.0),
        epsilon=(4.38, 4.38, 4.38),
        delta=1e-5,
        faults=[],
    )
    assert "epsilon 4.38 a round [4.38, 4.38]" in probed_text(probed, 1e-5)
    at_claim = f"{gaussian_epsilon(mu=1.0, delta=1e-3):.3g}"
    assert f"epsilon {at_claim} a round" in probed_text(probed, 1e-3)
    assert "(delta 0.001," in probed_text(probed, 1e-3)


def test_the_first_lines_say_what_was_tested(summary: AuditSummary, page: Page) -> None:
    sentence = what_was_tested(summary)
    assert sentence in page.text
    assert "swept_inversion" in sentence and "16 x 16 pixels, colour" in sentence
    assert "what they show was not stated" in sentence
    shown = [
        setting.model_copy(update={"config": {**setting.config, "data": "moles of the skin"}})
        for setting in summary.settings
    ]
    assert "(moles of the skin; 16 x 16" in what_was_tested(
        summary.model_copy(update={"settings": shown})
    )
    empty = [setting.model_copy(update={"attacks": []}) for setting in summary.settings]
    assert (
        what_was_tested(summary.model_copy(update={"settings": empty}))
        == "Nothing was attacked and scored."
    )


def test_the_first_picture_shows_how_many_are_recognisable(summary: AuditSummary) -> None:
    assert draw_recognisable(summary, "server") is None  # nothing here was scored by a chance
    (first, *rest) = summary.settings
    verdict = next(v for v in first.verdicts if v.view == "server")
    found = Recognisable()
    found.add([0.5, 1.0, 1.0, 0.0])
    counted = first.model_copy(update={"recognisable": {("server", verdict.attack): found}})
    shown = summary.model_copy(update={"settings": [counted, *rest]})
    plot = draw_recognisable(shown, "server")
    assert plot is not None and draw_recognisable(shown, "release") is None
    assert [row[3] for row in plot.data.rows] == ["2.5"] and plot.data.rows[0][5] == "4"
    assert "2.5 of 4 attacked images" in plot.alt
    assert 'aria-label="Recognisable images, server view.' in render_html(shown)


def test_every_chart_has_its_figures_as_a_table(summary: AuditSummary, page: Page) -> None:
    assert page.tags.count("svg") == page.tags.count("details") >= 6
    for view in ("server", "release"):
        (rounds,), (spread,) = draw_rounds(summary, view), draw_distribution(summary, view)
        tradeoff = draw_tradeoff(summary, view)
        assert tradeoff is not None
        for plot in (rounds, spread, tradeoff):
            assert {len(row) for row in plot.data.rows} == {len(plot.data.heads)}
        primary = summary.primary
        assert primary is not None
        for number, setting in enumerate(summary.settings, start=1):
            mine = [r for r in setting.records if r.view == view]
            images = [value for r in mine for value in r.each[primary]]
            row = next(row for row in spread.data.rows if row[0] == str(number))
            assert row[2] == str(len(images))
            assert row[5] == score_text(primary, float(np.median(images)))
            of_rounds = [row for row in rounds.data.rows if row[0] == str(number)]
            assert [int(row[2]) for row in of_rounds] == sorted({r.round for r in mine})
            assert sum(int(row[3]) for row in of_rounds) == len(mine)
