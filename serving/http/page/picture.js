/** The page's picture with a box around every line. */

import { isDoubtful } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

const area = document.getElementById("picture");
const pane = document.getElementById("pane");
const image = document.getElementById("image");
const boxes = document.getElementById("boxes");
const fit = document.getElementById("fit");
let shown = null; // the one picture that has an address
let drawn = null; // the lines whose boxes are there

/** @param {{light: (index: number | null) => void, choose: (index: number) => void}} tell */
export function listen(tell) {
  boxes.addEventListener("pointerover", ({ target }) => tell.light(indexOf(target)));
  boxes.addEventListener("pointerleave", () => tell.light(null));
  boxes.addEventListener("click", ({ target }) => {
    if (indexOf(target) !== null) tell.choose(indexOf(target));
  });
  fit.addEventListener("click", () => setFit(pane.dataset.fit === "page" ? "width" : "page"));
  setFit(matchMedia("(max-width: 52rem)").matches ? "width" : "page");
}

/**
 * Show a picture, with the lines' boxes once they are known.
 *
 * @param {{blob: Blob, width: number, height: number} | null} picture null: nothing to show
 * @param {{box: number[][], score: number}[]} lines boxes in the picture's own pixels
 * @param {string} name for those who do not see it
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

/** Give a picture an address, and take it from the one before. @returns {boolean} whether it is new */
function hold(blob) {
  if (shown?.blob === blob) return false;
  if (shown) URL.revokeObjectURL(shown.url);
  shown = blob && { blob, url: URL.createObjectURL(blob) };
  return true;
}

/** Light one box, or none. @param {number | null} index */
export function light(index) {
  boxes.querySelector(".lit")?.classList.remove("lit");
  boxes.children[index]?.classList.add("lit");
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
