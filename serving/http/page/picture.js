/** The page's picture with a box around every line. */

import { isDoubtful } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

const area = document.getElementById("picture");
const pane = document.getElementById("pane");
const image = document.getElementById("image");
const boxes = document.getElementById("boxes");
const fit = document.getElementById("fit");
let shown = null; // the one picture that has an object URL
let drawn = null; // the lines whose boxes are drawn

/** @param {{highlight: (index: number | null) => void, choose: (index: number) => void}} handlers */
export function listen(handlers) {
  boxes.addEventListener("pointerover", ({ target }) => handlers.highlight(indexOf(target)));
  boxes.addEventListener("pointerleave", () => handlers.highlight(null));
  boxes.addEventListener("click", ({ target }) => {
    if (indexOf(target) !== null) handlers.choose(indexOf(target));
  });
  fit.addEventListener("click", () => setFit(pane.dataset.fit === "page" ? "width" : "page"));
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
    drawn = null;
    return;
  }
  if (hold(picture.blob)) {
    image.src = shown.url;
    pane.scrollTo(0, 0);
  }
  image.alt = name;
  area.style.setProperty("--width", String(picture.width));
  area.style.setProperty("--height", String(picture.height));
  boxes.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  if (lines !== drawn) boxes.replaceChildren(...lines.map(polygon));
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

function indexOf(element) {
  return element.dataset.index === undefined ? null : Number(element.dataset.index);
}

function setFit(kind) {
  pane.dataset.fit = kind;
  fit.textContent = kind === "page" ? "Full width" : "Whole page";
}
