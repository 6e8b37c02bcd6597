"""The page: one question at a time, as plain forms; the script adds keys and patience.

No address holds a file name, a class or a key: what is in the page cannot give the answer away.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue as Reply

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.lab.manifest import CANNOT_TELL, Corpus

from .guard import protect
from .items import Item, png, size_shown
from .plan import Settings, candidates, plan
from .server import BODY_BYTES
from .store import LONGEST_NAME, Annotator, Store, StoreError, Task

DIGITS = "1234567890"
"""Keys of the classes where there are ten or fewer; with more, one types the name."""
RETRY_SECONDS = 2
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a running page knows; of `items`, what can be shown by key, one that goes bad is taken out."""

    corpus: Corpus
    store: Store
    settings: Settings
    items: dict[str, Item] = field(repr=False)

    @classmethod
    def of(cls, corpus: Corpus, store: Store, items: Mapping[str, Item]) -> "Service":
        """Of a store whose file exists, and what `check_corpus` found can be shown."""
        return cls(corpus=corpus, store=store, settings=store.settings(), items=dict(items))

    def open_tasks(self, annotator: Annotator) -> tuple[list[Task], list[Task]]:
        """``(answered, open)`` questions whose pictures can be shown."""
        done: list[Task] = []
        todo: list[Task] = []
        for task in self.store.tasks(annotator):
            if task.key in self.items:
                (todo if task.value is None else done).append(task)
        return done, todo

    def choices(self, task: Task) -> list[int]:
        """Values that answer a question."""
        if task.stage == "beside":
            return [1, 0]
        item = self.items[task.key]
        label, classes = item.pair.label, len(item.classes)
        return [*candidates(task.key, label, classes, self.settings), CANNOT_TELL]

    def join(self, name: str) -> Annotator:
        """Let someone in; pictures that are new to them are planned.

        Raises:
            ConfigError: The name cannot be used.
        """
        found = self.store.find(name=name)
        planned = {task.key for task in self.store.tasks(found)} if found else set()
        new = [key for key in self.items if key not in planned]
        name = found.name if found else name
        return self.store.join(name, plan(new, self.settings, annotator=name) if new else [])

    def picture(self, task: Task, which: str) -> bytes:
        """A picture of a question, as PNG.

        Raises:
            CorpusError: It went missing or bad since the start; its questions are left out.
        """
        pair = self.items[task.key].pair
        try:
            return png(self.corpus, pair.original if which == "original" else pair.reconstruction)
        except CorpusError as error:
            self.items.pop(task.key, None)
            _LOG.warning("left out: %s: %s", task.key, error)
            raise


def create_app(service: Service, *, host: str = "127.0.0.1") -> Flask:
    """The page as a WSGI application.

    `host`, where it will listen, says which `Host` headers are ours.
    """
    token = service.store.token()
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.extensions["annotate"] = service
    protect(app, host=host, token=token)
    app.context_processor(lambda: {"token": token, "longest": LONGEST_NAME})
    app.register_blueprint(page)
    for code in (400, 403, 404, 405, 413):
        app.register_error_handler(code, refused)
    app.register_error_handler(StoreError, busy)
    return app


page = Blueprint("page", __name__)


def _service() -> Service:
    """What the application of this request knows."""
    service = current_app.extensions["annotate"]
    assert isinstance(service, Service)
    return service


def _annotator(ticket: str) -> Annotator:
    annotator = _service().store.find(ticket=ticket)
    if annotator is None:
        abort(404, "Nobody judges at this address. Begin at the first page.")
    return annotator


@page.get("/")
def start() -> str:
    """The first page asks for a name."""
    return render_template("start.html", beside=_service().settings.beside)


@page.post("/join")
def join() -> Reply:
    """Let someone in; a name that is taken is asked about first."""
    service = _service()
    name = request.form.get("name", "")
    known = service.store.find(name=name) if name.strip() else None
    if known and not request.form.get("same"):
        done = len(service.open_tasks(known)[0])
        return render_template("again.html", name=known.name, done=done)
    try:
        annotator = service.join(name)
    except ConfigError as error:
        beside = service.settings.beside
        return render_template("start.html", error=str(error), name=name, beside=beside), 400
    return redirect(url_for(".judge", ticket=annotator.ticket), 303)


@page.get("/judge/<ticket>")
def judge(ticket: str) -> str:
    """The next question, or the end."""
    service, annotator = _service(), _annotator(ticket)
    while True:
        done, todo = service.open_tasks(annotator)
        if not todo:
            return render_template("done.html", who=annotator, last=_last(done), count=len(done))
        try:
            return _question(service, annotator, done, todo)
        except CorpusError:
            continue  # left out by now; on to the next


@page.post("/judge/<ticket>/answer")
def answer(ticket: str) -> Reply:
    """Take an answer; the first one to a question stands."""
    service, annotator = _service(), _annotator(ticket)
    number, value = _number("task"), _number("value")
    done, todo = service.open_tasks(annotator)
    task = {task.id: task for task in done + todo}.get(number)
    if task is None or value not in service.choices(task):
        abort(400, "This is no answer to that question. Load the page again.")
    if task.stage == "beside" and any(other.stage == "name" for other in todo):
        abort(400, "Originals come after all pictures are named. Load the page again.")
    store = service.store
    taken = store.answer(annotator, number, value, milliseconds=_milliseconds())
    stands = next((task.value for task in store.tasks(annotator) if task.id == number), None)
    note = None if taken or stands == value else "first"
    return redirect(url_for(".judge", ticket=ticket, note=note), 303)


@page.post("/judge/<ticket>/undo")
def undo(ticket: str) -> Reply:
    """Take back the last answer."""
    service, annotator = _service(), _annotator(ticket)
    last = _undoable(*service.open_tasks(annotator))
    if last and last.event == _number("event"):
        service.store.undo(annotator, last.event)
    return redirect(url_for(".judge", ticket=ticket), 303)


@page.get("/judge/<ticket>/<int:number>/<any(reconstruction, original):which>.png")
def picture(ticket: str, number: int, which: str) -> Response:
    """A picture of a question; no original before everything is named."""
    service = _service()
    done, todo = service.open_tasks(_annotator(ticket))
    task = {task.id: task for task in done + todo}.get(number)
    naming = any(other.stage == "name" for other in todo)
    if task is None or (which == "original" and (task.stage == "name" or naming)):
        abort(404, "There is no such picture.")
    try:
        return Response(service.picture(task, which), mimetype="image/png")
    except CorpusError:
        abort(404, "This picture cannot be shown any more. Load the page again.")


def refused(error: Exception) -> tuple[str, int]:
    """The page of an error."""
    code = getattr(error, "code", None) or 500
    what = getattr(error, "description", None) or "Something went wrong here."
    return render_template("refused.html", what=what), code


def busy(error: StoreError) -> tuple[str, int, dict[str, str]]:
    """The page where the file of answers cannot be used; what was posted stands in it, to be sent again."""
    _LOG.warning("%s", error)
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return render_template("busy.html", form=request.form, seconds=RETRY_SECONDS), 503, headers


def _question(service: Service, annotator: Annotator, done: list[Task], todo: list[Task]) -> str:
    task = todo[0]
    item = service.items[task.key]
    service.picture(task, "reconstruction")
    if task.stage == "beside":
        service.picture(task, "original")
    classes = [
        (index, item.classes[index].replace("_", " "))
        for index in service.choices(task)
        if task.stage == "name" and index != CANNOT_TELL
    ]
    passed, left = ([one for one in ones if one.stage == task.stage] for ones in (done, todo))
    return render_template(
        "question.html",
        who=annotator,
        task=task,
        question=service.settings.question,
        classes=sorted(classes, key=lambda row: row[1].casefold()),
        digits=DIGITS if len(classes) <= len(DIGITS) else "",
        size=size_shown(*item.size),
        done=len(passed),
        total=len(passed) + len(left),
        parts=2 if service.settings.beside else 1,
        last=_undoable(done, todo),
        note=request.args.get("note"),
    )


def _last(done: list[Task]) -> Task | None:
    return max(done, key=lambda task: task.event or 0, default=None)


def _undoable(done: list[Task], todo: list[Task]) -> Task | None:
    """The last answer, unless an original has been shown since: then the blind answer stands."""
    last = _last(done)
    blind_again = last and last.stage == "name" and todo and todo[0].stage == "beside"
    return None if blind_again else last


def _number(name: str) -> int:
    try:
        return int(request.form[name])
    except (KeyError, ValueError):
        abort(400, "This form is not complete. Load the page again.")


def _milliseconds() -> int | None:
    """How long the picture was looked at; None without the script."""
    text = request.form.get("milliseconds", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
