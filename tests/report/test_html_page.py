"""The page a report is: facts, escaping, one file, and what is missing."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fl_privacy_audit.attacks import THREAT_MODELS
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.core.types import KnownDefence
from fl_privacy_audit.report import formats
from fl_privacy_audit.report.attackers import attackers
from fl_privacy_audit.report.background import THREATS
from fl_privacy_audit.report.conditions import gaps, ledger_digest
from fl_privacy_audit.report.dp import dp_sections
from fl_privacy_audit.report.html import render_html, render_json, render_markdown
from fl_privacy_audit.report.html.pictures import LEFT_OUT, OFF
from fl_privacy_audit.report.lines import MINUS, lines_of
from fl_privacy_audit.report.opening import headline
from fl_privacy_audit.report.summary import AuditSummary, LeftOut, summarise
from fl_privacy_audit.report.words import LEADS, LOWER_BOUND
from tests.support.report_builders import SWEEP, Setting, dp_sgd, write_setting, write_sweep

EVIL = "<script>alert(1)</script> $x_$ \"q\" 'a' | `t` [l](http://x.y) \u202e"
NAMED = {setting.name: setting for setting in SWEEP}
FEW = tuple(
    NAMED[name]
    for name in (
        "no defence",
        "Gaussian noise 1e-1",
        "DP-SGD z=0.3",
        "Flower ServerSide fixed clipping",
    )
)
LOADING = {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}


class Page(HTMLParser):
    """Text, tags and addresses of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self._quiet = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._quiet = tag == "style"
        for name, value in attrs:
            if name in LOADING:
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "aria-label" and tag == "svg":
                self.labels.append(value or "")
            assert not name.startswith("on"), name

    def handle_endtag(self, tag: str) -> None:
        self._quiet = False
        self.tags.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.words.append(data)
        if self.tags and self.tags[-1] == "h2" and data.strip():
            self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    return summarise(write_sweep(tmp_path_factory.mktemp("sweep"), FEW))


@pytest.fixture(scope="module")
def html(summary: AuditSummary) -> str:
    return render_html(summary)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def one(folder: Path, setting: Setting) -> AuditSummary:
    return summarise([write_setting(folder / "run", setting)])


def test_verdicts_come_first(summary: AuditSummary, page: Page) -> None:
    text = page.text
    assert "Server view: 4 settings: 3 leaked, 1 withstood these attacks." in text
    assert "Release view: 4 settings: 1 leaked, 3 withstood these attacks." in text
    first = [LOWER_BOUND, "Server view: what the server could see", "Release view: what anyone"]
    places = [text.index(part) for part in first]
    assert places == sorted(places)
    assert page.headings == [
        "Verdicts",
        "How to read the verdicts",
        "Leakage against accuracy",
        "Leakage per round",
        "Image by image",
        "Original beside reconstruction",
        "Do the metrics agree?",
        "Who the attacker is",
        "Does the description fit the clients?",
        "Which attacks were tried",
        "What was not tested",
        "Differential privacy: theory beside practice",
        "Annex: what guidance asks for, and what was done",
        "Where these figures come from",
        "Words used here",
    ]


def test_a_line_has_what_the_summary_says(summary: AuditSummary, page: Page) -> None:
    (line, *_) = lines_of(summary, "server")
    verdict = summary.settings[0].verdicts[0].attacks[0]
    assert verdict.net is not None and verdict.net.low is not None
    assert line.net == f"+{verdict.net.mean:.2f}"
    assert line.interval == f"+{verdict.net.low:.2f} to +{verdict.net.high:.2f}"
    assert (line.word, line.accuracy, line.epsilon_in_effect) == ("leaked", "87.1%", "none")
    row = f"no defence ▲ leaked Clearly more than every null control. {line.net} ({line.interval})"
    text = page.text.replace("\xa0", " ")
    assert f"{row} 87.1% none none" in text and "Net leakage (SSIM)" in text
    assert f"▲ leaked {LEADS[line.word]}" in text
    assert "inconclusive The audit cannot tell" not in text


def test_epsilon_is_the_one_in_effect_and_says_what_it_covers(summary: AuditSummary) -> None:
    server = {line.setting: line for line in lines_of(summary, "server")}
    release = {line.setting: line for line in lines_of(summary, "release")}
    check = summary.by_setting("DP-SGD z=0.3").dp
    assert check is not None
    most = max(spent.cumulative.pld for spent in check.clients)
    assert server["DP-SGD z=0.3"].epsilon_in_effect == f"{most:.3g}" != "2.9"
    assert "the claim does not hold" in server["DP-SGD z=0.3"].epsilon_notes
    name = "Flower ServerSide fixed clipping"
    epsilon = release[name].epsilon_in_effect
    assert epsilon == "12.9" and "so large that it promises little" in release[name].epsilon_notes
    assert server[name].epsilon_in_effect == "none here"
    assert server[name].epsilon_notes == (
        f"{epsilon} covers the released model only, not this view",
    )


def test_epsilon_stands_only_beside_points_that_it_covers(page: Page) -> None:
    server, release = (t for t in page.labels if t.startswith("Net leakage by SSIM"))
    assert "epsilon in effect none here, reported none. 4, DP-SGD" in server
    assert "epsilon in effect 12.9, reported none. 4, DP-SGD" in release
    assert "3 (ε 12.9)" in page.text and page.text.count("(ε 12.9)") == 1


def test_views_never_share_a_picture(page: Page) -> None:
    kinds = [label.split(".")[0] for label in page.labels]
    assert len(kinds) == 8 == len(set(kinds))
    assert all(("server view" in label) != ("release view" in label) for label in page.labels)


def test_pictures_tell_their_numbers(summary: AuditSummary, page: Page) -> None:
    line = lines_of(summary, "server")[0]
    tradeoff = next(label for label in page.labels if label.startswith("Net leakage by SSIM"))
    assert (
        f"1, no defence: {line.net} ({line.interval}), accuracy 87.1%, epsilon in effect none, "
        in tradeoff
    )
    strips = next(label for label in page.labels if label.startswith("SSIM of every"))
    assert "1, no defence: 18 images, median" in strips and line.worst.split(" (")[0] in strips


def test_theory_stands_beside_practice(summary: AuditSummary, page: Page) -> None:
    check = summary.by_setting("DP-SGD z=0.3").dp
    assert check is not None and check.corridor is not None
    text = page.text
    assert f"chance of at most {check.corridor.identification:.1%}" in text
    assert f"expects a PSNR of {MINUS}{-check.corridor.psnr:.1f} dB" in text
    spent = max(check.clients, key=lambda c: c.cumulative.pld)
    for figure in (spent.cumulative.rdp, spent.cumulative.pld, spent.cumulative.pld_replace):
        assert f"{figure:.3g}" in text
    for flag in check.flags:
        assert flag.message in text
    assert "Random generator of the noise not checked" in text


def test_the_attacker_is_told_once_and_then_what_differs(summary: AuditSummary) -> None:
    server, release = attackers(summary)
    assert (server.view, release.view) == ("server", "release")
    assert "It has to rebuild 1 image at once." in server.facts
    assert "It has to rebuild 3 images at once." in release.facts
    assert "It does not know the momentum." in server.facts
    assert "Assumed: local training mode not known; taken as train mode." in server.facts
    assert "3 x 16 x 16 numbers, mean 0.5, standard deviation 0.25" in " ".join(server.facts)
    assert server.differences == ()
    known = KnownDefence(name="pruning", options={"share": 0.7}, zeros_hide=True)
    first, *rest = summary.settings
    models = [m.model_copy(update={"defence": known, "num_images": 2}) for m in first.threat_models]
    changed = first.model_copy(update={"threat_models": [*first.threat_models, *models]})
    server, _ = attackers(summary.model_copy(update={"settings": [changed, *rest]}))
    assert server.differences == (
        ("setting 1", "It has to rebuild 1 image or 2 images at once."),
        (
            "setting 1",
            "It knows the defence, pruning (share 0.7), and adapts; a zero may stand for anything.",
        ),
        ("settings 2-4", "It has to rebuild 1 image at once."),
    )


def test_what_was_never_attacked_is_counted(summary: AuditSummary) -> None:
    first, *rest = summary.settings
    tried, *others = first.attacks
    not_due = LeftOut(reason=Reason.of("not due", every=3), records=1182)
    left = tried.model_copy(update={"not_tested": [not_due]})
    changed = first.model_copy(update={"attacks": [left, *others]})
    said = gaps(summary.model_copy(update={"settings": [changed, *rest]}))
    whole = formats.count(1200, "update")
    never = "The others were never attacked."
    assert f"Server view, setting 1: swept_inversion attacked 18 of {whole}. {never}" in said
    records = formats.count(1182, "record")
    assert (
        f"Server view, setting 1, swept_inversion: {records} not tested (not due: every 3 rounds)."
        in said
    )
    assert not any("never attacked" in line for line in gaps(summary))


def test_every_threat_model_has_its_sentence() -> None:
    assert THREATS.keys() == THREAT_MODELS.keys()


def test_what_is_not_stated_is_not_called_faultless(tmp_path: Path) -> None:
    claim = {"sampling": "unknown", "accountant": "unknown"}
    setting = replace(FEW[2], reported=(), changes=dp_sgd(0.3, **claim))
    (section,) = dp_sections(one(tmp_path, setting))
    checklist = dict(section.checklist)
    assert checklist["Sampling"] == checklist["Counted over all rounds"] == "not stated"


def test_clients_with_the_same_figures_share_a_line(summary: AuditSummary) -> None:
    section = next(s for s in dp_sections(summary) if s.setting == "DP-SGD z=0.3")
    assert [row[0] for row in section.epsilons] == ["partitions 0-2"]


def test_origins_name_seed_run_and_digest(summary: AuditSummary, page: Page) -> None:
    for setting in summary.settings:
        digest = ledger_digest(setting.ledger)
        assert digest is not None and len(digest) == 64
        assert digest in page.text and setting.run in page.text
        assert formats.when(setting.started) in page.text
    for package, version in summary.settings[0].versions.items():
        assert f"{package} {version}" in page.text


def test_nothing_is_loaded_and_nothing_runs(html: str, page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert all(a.startswith(("#", "data:")) for a in page.addresses)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#|data:)", html)
    assert "default-src 'none'" in html
    assert len(page.ids) == len(set(page.ids))
    targets = {a[1:] for a in page.addresses if a.startswith("#")}
    assert targets <= set(page.ids)


def test_the_same_summary_gives_the_same_page(summary: AuditSummary, html: str) -> None:
    assert render_html(summary) == html


def test_text_from_runs_stays_text(tmp_path: Path) -> None:
    summary = one(tmp_path, replace(FEW[0], name=EVIL, clients=2))
    (setting,) = summary.settings
    records = [replace(r, client=EVIL) for r in setting.records]
    evil = setting.model_copy(
        update={
            "records": records,
            "run": EVIL,
            "versions": {EVIL: EVIL},
            "attacks": [a.model_copy(update={"attack": EVIL}) for a in setting.attacks],
        }
    )
    summary = summary.model_copy(update={"settings": [evil]})
    html = render_html(summary)
    page = Page(html)
    assert "script" not in page.tags and "<script" not in html and "\u202e" not in html
    shown = clean(EVIL)
    assert page.text.count(shown) > 5
    assert any(shown in label for label in page.labels)
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert "&lt;script&gt;alert(1)" in svg
    markdown = render_markdown(summary)
    assert "<script" not in markdown and "[l](" not in markdown and "\u202e" not in markdown
    for row in re.findall(r"^\| 1 .*$", markdown, re.MULTILINE):
        assert row.endswith(" |")
    text = render_json(summary)
    assert "<script" not in text
    assert json.loads(text)["settings"][0]["setting"] == EVIL


def test_without_controls_nothing_is_concluded(tmp_path: Path) -> None:
    summary = one(tmp_path, replace(FEW[0], nulls=False, copies=None))
    (line,) = lines_of(summary, "server")
    assert (line.word, line.net) == ("inconclusive", "-")
    page = Page(render_html(summary))
    assert "no null control was attacked" in page.text.lower()
    assert "There is nothing to draw in the server view" in page.text


def test_without_truth_nothing_is_scored(tmp_path: Path) -> None:
    summary = one(tmp_path, replace(FEW[0], truth=False))
    assert summary.primary is None
    page = Page(render_html(summary))
    assert "18 records not scored" in page.text
    assert "No record was scored in this view." in page.text
    assert "1 setting: 1 inconclusive." in page.text
    assert "not scored" in render_markdown(summary)


def test_an_old_ledger_of_one_view(tmp_path: Path) -> None:
    setting = replace(FEW[0], views=("server",), nulls=False, copies=None, accuracy=None)
    directory = write_setting(tmp_path / "old", setting)
    ledger = directory / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:
        line["schema_version"] = 1
        for key in ("arrays", "clients"):
            line.pop(key, None)
        for key in ("views", "controls", "claim"):
            line.get("config", {}).pop(key, None)
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(render_html(summarise([directory])))
    assert "The release view was not audited for any setting." in page.text
    assert "Release view:" not in page.text and "not measured" in page.text


def test_pictures_only_where_they_were_kept(tmp_path: Path, page: Page) -> None:
    assert OFF in page.text and "img" not in page.tags
    summary = one(tmp_path, replace(FEW[0], pictures=True))
    html = render_html(summary)
    shown = Page(html)
    assert "This file holds pictures of private training images." in shown.text
    images = [a for a in shown.addresses if a.startswith("data:image/png")]
    assert len(images) == 8  # two views, two records, original and reconstruction
    assert all(base64.b64decode(a.split(",")[1]).startswith(b"\x89PNG") for a in images)
    bare = Page(render_html(summary, pictures=False))
    assert LEFT_OUT in bare.text and "img" not in bare.tags
    for path in (tmp_path / "run" / "pictures").iterdir():
        Image.new("RGB", (640, 480)).save(path)
    foreign = Page(render_html(summary))
    assert "is not of the size of this audit's" in foreign.text and "img" not in foreign.tags
    for path in (tmp_path / "run" / "pictures").iterdir():
        path.unlink()
    assert "The picture cannot be read" in Page(render_html(summary)).text


def test_json_is_the_summary_and_the_digests(summary: AuditSummary) -> None:
    content = json.loads(render_json(summary))
    digests = content.pop("ledger_sha256")
    assert content.pop("tester") is None
    assert content.pop("retest").startswith("By 20")
    assert content.pop("seal").startswith("report-sha256:")
    assert AuditSummary.model_validate(content) == summary
    assert digests == {s.setting: ledger_digest(s.ledger) for s in summary.settings}


def test_markdown_has_the_same_verdicts(summary: AuditSummary) -> None:
    text = render_markdown(summary)
    assert f"> {LOWER_BOUND}" in text
    for view in ("server", "release"):
        assert headline(summary, view) in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table


def test_the_undefended_setting_comes_first_then_the_one_that_leaks_most(tmp_path: Path) -> None:
    names = ["DP-SGD z=1", "Flower ClientSide fixed clipping", "no defence", "DP-SGD z=0.3"]
    directories = write_sweep(tmp_path, tuple(NAMED[name] for name in names))
    summary = summarise(directories)
    assert [s.setting for s in summary.settings] == [names[2], names[1], names[3], names[0]]
    assert [row.setting for row in summary.comparison.rows[::2]] == names
    assert [line.number for line in lines_of(summary, "release")] == [1, 2, 3, 4]
