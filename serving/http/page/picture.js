/** The page's picture with a box around every line. */

import { isDoubtful } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

const area = document.getElementById("picture");
const pane = document.getElementById("pane");
const image = document.getElementById("image");
const boxes = document.getElementById("boxes");
const texts = document.getElementById("texts");
const fit = document.getElementById("fit");
const inPlace = document.getElementById("in-place");
const smaller = document.getElementById("smaller");
const larger = document.getElementById("larger");
const STEP = 1.4;
const MOST = 8; // times as large as fitted
let shown = null; // the one picture that has an object URL
let drawn = null; // the lines whose boxes are drawn
let zoom = 1;

/** @param {{highlight: (index: number | null) => void, choose: (index: number) => void}} handlers */
export function listen(handlers) {
  boxes.addEventListener("pointerover", ({ target }) => handlers.highlight(indexOf(target)));
  boxes.addEventListener("pointerleave", () => handlers.highlight(null));
  boxes.addEventListener("click", ({ target }) => {
    if (indexOf(target) !== null) handlers.choose(indexOf(target));
  });
  fit.addEventListener("click", () => setFit(pane.dataset.fit === "page" ? "width" : "page"));
  smaller.addEventListener("click", () => setZoom(zoom / STEP));
  larger.addEventListener("click", () => setZoom(zoom * STEP));
  pane.addEventListener("keydown", ({ key, ctrlKey, metaKey }) => {
    const next = { "+": zoom * STEP, "=": zoom * STEP, "-": zoom / STEP, 0: 1 }[key];
    if (next && !ctrlKey && !metaKey) setZoom(next);
  });
  const wheel = (event) => {
    if (!event.ctrlKey) return; // a pinch on a touchpad has it too
    event.preventDefault();
    setZoom(zoom * Math.exp(-event.deltaY / 200), event);
  };
  pane.addEventListener("wheel", wheel, { passive: false });
  inPlace.addEventListener("click", () => {
    const pressed = inPlace.ariaPressed !== "true";
    inPlace.ariaPressed = String(pressed);
    area.classList.toggle("in-place", pressed);
  });
  setFit(matchMedia("(max-width: 52rem)").matches ? "width" : "page");
}

/**
 * Show a picture, with the lines' boxes once they are known.
 *
 * @param {{blob: Blob, width: number, height: number} | null} picture null: nothing to show
 * @param {{box: number[][], score: number}[]} lines boxes in the picture's own pixels
 * @param {string} name alternative text
 */
export function show(picture, lines, name) {
  area.hidden = picture === null;
  if (picture === null) {
    image.removeAttribute("src");
    hold(null);
    boxes.replaceChildren();
    texts.replaceChildren();
    drawn = null;
    return;
  }
  if (hold(picture.blob)) {
    image.src = shown.url;
    setZoom(1);
    pane.scrollTo(0, 0);
  }
  image.alt = name;
  area.style.setProperty("--width", String(picture.width));
  area.style.setProperty("--height", String(picture.height));
  for (const layer of [boxes, texts]) {
    layer.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  }
  if (lines !== drawn) {
    boxes.replaceChildren(...lines.map(polygon));
    texts.replaceChildren(...lines.map(text));
  }
  drawn = lines;
}

/** Create an object URL for a picture and revoke the one before. @returns {boolean} whether it is new */
function hold(blob) {
  if (shown?.blob === blob) return false;
  if (shown) URL.revokeObjectURL(shown.url);
  shown = blob && { blob, url: URL.createObjectURL(blob) };
  return true;
}

/** Highlight one box, or none. @param {number | null} index */
export function highlight(index) {
  boxes.querySelector(".highlighted")?.classList.remove("highlighted");
  boxes.children[index]?.classList.add("highlighted");
}

/** Scroll the pane, never the window, to a box. @param {number} index */
export function reveal(index) {
  const box = boxes.children[index]?.getBoundingClientRect();
  if (!box) return;
  const view = pane.getBoundingClientRect();
  pane.scrollBy({
    left: overshoot(box.left, box.right, view.left, view.right),
    top: overshoot(box.top, box.bottom, view.top, view.bottom),
  });
}

function overshoot(from, to, low, high) {
  const seen = from >= low && to <= high;
  return seen ? 0 : (from + to - low - high) / 2;
}

function polygon({ box, score }, index) {
  const element = document.createElementNS(SVG, "polygon");
  element.setAttribute("points", box.map((point) => point.join(",")).join(" "));
  element.dataset.index = String(index);
  element.classList.toggle("doubtful", isDoubtful(score));
  return element;
}

/** The line's text, as wide as its box and along its upper edge. */
function text({ data, box: [a, b, , d] }) {
  const element = document.createElementNS(SVG, "text");
  const height = Math.hypot(d[0] - a[0], d[1] - a[1]);
  const angle = (Math.atan2(b[1] - a[1], b[0] - a[0]) * 180) / Math.PI;
  const values = {
    transform: `translate(${a.join(" ")}) rotate(${angle}) translate(0 ${0.78 * height})`,
    "font-size": 0.8 * height,
    textLength: Math.hypot(b[0] - a[0], b[1] - a[1]),
    lengthAdjust: "spacingAndGlyphs",
  };
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  element.textContent = data;
  return element;
}

function indexOf(element) {
  return element.dataset.index === undefined ? null : Number(element.dataset.index);
}

function setFit(kind) {
  pane.dataset.fit = kind;
  fit.textContent = kind === "page" ? "Full width" : "Whole page";
  setZoom(1);
}

/** Zoom, with what is in the middle, or under a pointer, left where it is. */
function setZoom(wanted, pointer = null) {
  const view = pane.getBoundingClientRect();
  const x = pointer ? pointer.clientX - view.left : view.width / 2;
  const y = pointer ? pointer.clientY - view.top : view.height / 2;
  const before = { width: pane.scrollWidth, height: pane.scrollHeight };
  const { scrollLeft, scrollTop } = pane;
  zoom = Math.min(Math.max(wanted, 1), MOST);
  if (zoom < 1.01) zoom = 1;
  pane.style.setProperty("--zoom", String(zoom));
  smaller.disabled = zoom === 1;
  larger.disabled = zoom === MOST;
  const across = pane.scrollWidth / before.width;
  const down = pane.scrollHeight / before.height;
  pane.scrollTo((scrollLeft + x) * across - x, (scrollTop + y) * down - y);
}
