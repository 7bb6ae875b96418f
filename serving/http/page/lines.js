/** The lines of a page as a list: one stop for Tab, arrow keys inside. */

import { DOUBTFUL, isDoubtful, percent } from "./text.js";

const doubt = document.getElementById("doubt");
const list = document.getElementById("lines");
let shown = null;

/** @param {{highlight: (index: number | null) => void, choose: (index: number) => void}} handlers */
export function listen(handlers) {
  list.addEventListener("pointerover", ({ target }) => handlers.highlight(indexOf(target)));
  list.addEventListener("pointerleave", () => handlers.highlight(null));
  list.addEventListener("focusin", ({ target }) => {
    setStop(indexOf(target));
    handlers.choose(indexOf(target));
  });
  list.addEventListener("keydown", (event) => {
    const last = list.children.length - 1;
    const here = indexOf(event.target);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    focus(Math.min(Math.max(to, 0), last));
  });
}

/** @param {{data: string, score: number}[]} lines */
export function show(lines) {
  if (lines === shown) return; // keep the focus, which may be on one of them
  shown = lines;
  list.hidden = lines.length === 0;
  doubt.hidden = !lines.some(({ score }) => isDoubtful(score));
  doubt.textContent = DOUBTFUL;
  list.replaceChildren(...lines.map(option));
  list.scrollTo(0, 0);
}

/** Highlight one line, or none. @param {number | null} index */
export function highlight(index) {
  for (const highlighted of list.querySelectorAll(".highlighted")) {
    highlighted.classList.remove("highlighted");
    highlighted.ariaSelected = "false";
  }
  const line = list.children[index];
  if (line) {
    line.classList.add("highlighted");
    line.ariaSelected = "true";
  }
}

/** @param {number} index */
export function reveal(index) {
  list.children[index]?.scrollIntoView({ block: "nearest" });
}

/** @param {number} index */
export function focus(index) {
  list.children[index]?.focus();
}

function option({ data, score }, index) {
  const line = document.createElement("li");
  line.role = "option";
  line.ariaSelected = "false";
  line.tabIndex = index === 0 ? 0 : -1;
  line.dataset.index = String(index);
  const text = element("span", "data", data);
  text.dir = "auto";
  const sure = element("span", "score", percent(score));
  if (isDoubtful(score)) {
    line.classList.add("doubtful");
    sure.append(element("span", "visually-hidden", ", doubtful"));
  }
  line.append(text, sure);
  return line;
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function setStop(index) {
  list.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
  list.children[index].tabIndex = 0;
}

function indexOf(element) {
  const line = element.closest("[data-index]");
  return line === null ? null : Number(line.dataset.index);
}
