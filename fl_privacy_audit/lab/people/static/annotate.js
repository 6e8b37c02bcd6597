// Keys, type-ahead, and patience with a server that is away. Without it the page still works by mouse.
"use strict";

const main = document.querySelector("main");
const mode = main.dataset.mode;
const form = document.getElementById("answer");
const undo = document.getElementById("undo");
const banner = document.getElementById("banner");
const filter = document.getElementById("filter");
const shown = performance.now();
let busy = false;
let kept = false;

// Send a form; if nobody answers, or the server cannot take it, keep it and try again until it can. The
// server takes each answer once, however often it is sent.
async function send(target, button) {
  if (busy) return;
  busy = true;
  main.classList.add("busy");
  button?.classList.add("chosen");
  const data = new FormData(target, button);
  if (data.has("milliseconds")) data.set("milliseconds", Math.round(performance.now() - shown));
  for (;;) {
    let why = "The server does not answer.";
    let seconds = 0.5;
    try {
      const reply = await fetch(target.action, {
        method: "POST", body: new URLSearchParams(data), signal: AbortSignal.timeout(20_000),
      });
      if (reply.redirected) {
        kept = false;
        return location.replace(reply.url);
      }
      const page = new DOMParser().parseFromString(await reply.text(), "text/html");
      if (reply.status < 500) {
        kept = false;
        document.body.replaceChildren(...page.body.children);
        return;
      }
      why = page.getElementById("why")?.textContent ?? "The server cannot take the answer.";
      seconds = Number(reply.headers.get("Retry-After")) || seconds;
    } catch {} // nobody there, or gone in between
    kept = true;
    banner.textContent = `${why} Your answer is kept in this window and is sent again until it is `
      + "taken. Leave the window open.";
    banner.hidden = false;
    await new Promise((resume) => setTimeout(resume, 1000 * seconds));
  }
}

// Whoever closes the window while an answer waits is asked first.
addEventListener("beforeunload", (event) => {
  if (kept) event.preventDefault();
});

const ready = () => [...document.images].every((image) => image.complete);

function press(button) {
  if (!button || busy || !ready()) return;
  send(button.form, button);
}

for (const target of [form, undo && undo.form]) {
  target?.addEventListener("submit", (event) => {
    event.preventDefault();
    send(target, event.submitter);
  });
}

// A picture that could not be loaded: the server has left it out, so ask again.
for (const image of document.images) {
  image.addEventListener("error", () => setTimeout(() => location.reload(), 1000));
}

const buttons = form ? [...form.querySelectorAll(".classes button")] : [];
let chosen = -1;
let fits = buttons;

function choose(place) {
  buttons.forEach((button) => button.classList.remove("chosen"));
  chosen = fits.length ? (place + fits.length) % fits.length : -1;
  if (chosen < 0) return say(filter.value ? "No class fits." : "");
  fits[chosen].classList.add("chosen");
  fits[chosen].scrollIntoView({ block: "nearest" });
  say(`Enter: ${fits[chosen].textContent.trim()}`
    + (fits.length > 1 && filter.value ? ` (${fits.length} fit)` : ""));
}

function say(text) {
  document.getElementById("matches").textContent = text;
}

// Names that begin so come first, then those with a word that begins so, then the rest.
function rank(name, typed) {
  if (name.startsWith(typed)) return 0;
  if (name.split(/[\s_-]+/).some((word) => word.startsWith(typed))) return 1;
  return name.includes(typed) ? 2 : 3;
}

function narrow() {
  const typed = filter.value.trim().toLowerCase().replaceAll("_", " ");
  const ranked = buttons.map((button) => [rank(button.textContent.trim().toLowerCase()
    .replaceAll("_", " "), typed), button]);
  for (const [place, button] of ranked) button.hidden = place > 2;
  fits = ranked.filter(([place]) => place < 3).sort((a, b) => a[0] - b[0]).map(([, button]) => button);
  const list = document.getElementById("classes");
  for (const button of fits) list.append(button);
  if (typed) return choose(0);
  buttons.forEach((button) => list.append(button));
  fits = buttons;
  chosen = -1;
  buttons.forEach((button) => button.classList.remove("chosen"));
  say("");
}

if (filter) {
  document.getElementById("search").hidden = false;
  filter.addEventListener("input", narrow);
  if (matchMedia("(hover: hover)").matches) filter.focus(); // no keyboard jumps up on a phone
}

document.addEventListener("keydown", (event) => {
  if (!mode && !undo) return;
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const at = document.activeElement;
  const typing = at === filter && filter !== null;
  if (event.repeat && !(typing && (filter.value || event.key.startsWith("Arrow")))) {
    if (event.key === " " || event.key === "Backspace") event.preventDefault();
    return;
  }
  const empty = !filter || filter.value === "";
  // A button that was reached with Tab is pressed as buttons are.
  if (at?.tagName === "BUTTON" && (event.key === " " || event.key === "Enter")) return;
  if (event.key === "Backspace" && empty) {
    event.preventDefault();
    press(undo);
  } else if (filter && event.key === "Enter") {
    event.preventDefault();
    if (chosen >= 0) press(fits[chosen]);
  } else if (filter && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    choose(chosen < 0 && event.key === "ArrowUp" ? -1 : chosen + (event.key === "ArrowDown" ? 1 : -1));
  } else if (filter && event.key === "Escape") {
    filter.value = "";
    narrow();
  } else if (event.key === " " ? empty : !filter) {
    const button = form?.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (button) {
      event.preventDefault();
      press(button);
    }
  } else if (filter && !typing && event.key.length === 1) {
    filter.focus(); // the letter lands in the box
  }
});
