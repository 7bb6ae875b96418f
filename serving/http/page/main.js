/** Connects the parts: files in, the selected document on screen. */

import { example, pipelines } from "./api.js";
import * as bar from "./bar.js";
import { Documents } from "./documents.js";
import * as input from "./input.js";
import { askForKey } from "./key.js";
import * as lines from "./lines.js";
import * as picture from "./picture.js";
import { copy, inFormat, save, textOf } from "./export.js";
import { listen as listenToOptions } from "./options.js";
import { counted, errorText, explained } from "./text.js";

const byId = (id) => document.getElementById(id);
const pipeline = byId("pipeline");
const documents = new Documents(chosenPipeline);
let current = null;
let chosen = null; // the line focused last
let quietUntil = 0;
const QUIET = 5000; // ms

function render() {
  document.body.dataset.state = current ? "work" : "empty";
  if (!current) return;
  const { state, refusal, answer } = current;
  const page = answer?.pages[current.page] ?? null;
  bar.show(documents.list, current, look);
  picture.show(pictureOf(current, page), page?.lines ?? [], `Page of ${current.file.name}`);
  lines.show(page?.lines ?? []);
  byId("nothing").hidden = page === null || page.lines.length > 0;
  byId("busy").hidden = page !== null || (state !== "reading" && state !== "waiting");
  byId("failed").hidden = page !== null || refusal === null;
  if (refusal) showRefusal(refusal);
}

function pictureOf(doc, page) {
  return page?.picture ? { ...page, blob: page.picture } : doc.preview;
}

function showRefusal(refusal) {
  const { title, message, hint, again } = explained(refusal);
  byId("again").hidden = !again;
  byId("failed-title").textContent = title;
  byId("failed-message").textContent = message;
  byId("failed-hint").textContent = hint;
  byId("failed-id").textContent = refusal.requestId ? `Request ${refusal.requestId}` : "";
}

/** Show a document, and a page of it. */
function look(doc, page = doc?.page) {
  if (doc && !current) requestAnimationFrame(() => byId("name").focus());
  current = doc;
  chosen = null;
  if (doc) doc.page = page;
  render();
}

function announce(text) {
  byId("status").textContent = text;
}

/** Announce what changes too often to announce every time. */
function announceRarely(text) {
  if (performance.now() < quietUntil) return;
  quietUntil = performance.now() + QUIET;
  announce(text);
}

/** Highlight a line in the list and the picture; without an index, the chosen line. */
function highlight(index) {
  lines.highlight(index ?? chosen);
  picture.highlight(index ?? chosen);
}

function choose(index) {
  chosen = index;
  highlight(index);
  picture.reveal(index);
}

lines.listen({
  choose,
  highlight(index) {
    highlight(index);
    if (index !== null) picture.reveal(index);
  },
});
picture.listen({
  choose: lines.focus,
  highlight(index) {
    highlight(index);
    if (index !== null) lines.reveal(index);
  },
});

documents.addEventListener("change", ({ detail: doc }) => {
  if (doc.state === "reading") announce(`Reading ${doc.file.name}`);
  if (doc.state === "read") announce(`${doc.file.name}: ${bar.summary(doc)}`);
  if (doc.state === "failed") announce(`${doc.file.name}: ${explained(doc.refusal).title}`);
  if (doc !== current) return bar.show(documents.list, current, look);
  if (!doc.answer) chosen = null;
  render();
});

documents.addEventListener("page", ({ detail: doc }) => {
  const { answer, page, total } = doc;
  if (doc !== current) return;
  // Leave the view alone while the user looks at another page, or points at a line.
  if (page === answer.pages.length - 1) render();
  else bar.show(documents.list, current, look);
  if (total > 1) announceRarely(bar.progress(doc));
});

input.listen((files) => look(documents.add(files)));
byId("example").addEventListener("click", () => {
  example().then((file) => look(documents.add([file])), showTrouble);
});
byId("clear").addEventListener("click", () => {
  documents.clear();
  look(null);
  byId("choose").focus();
});
byId("cancel").addEventListener("click", () => documents.cancel());
for (const id of ["again", "resume"]) {
  byId(id).addEventListener("click", () => documents.again(current));
}
byId("previous").addEventListener("click", () => look(current, current.page - 1));
byId("next").addEventListener("click", () => look(current, current.page + 1));
byId("formats").addEventListener("click", async ({ target }) => {
  if (!target.dataset.format) return;
  byId("formats").hidePopover();
  byId("trouble").textContent = "";
  announce(`Preparing: ${target.textContent}`);
  bar.preparing(true);
  try {
    const file = await inFormat(target.dataset.format, current);
    save(file);
    announce(`${file.name} downloaded`);
  } catch (refusal) {
    showTrouble(refusal);
  }
  bar.preparing(false);
});
byId("copy").addEventListener("click", async () => {
  const done = await copy(textOf(current.answer));
  const count = current.answer.pages.reduce((sum, page) => sum + page.lines.length, 0);
  announce(done ? `${counted(count, "line")} copied` : "The browser refused to copy");
  bar.copied(done);
});
const readAgain = () => current && documents.again(current);
pipeline.addEventListener("change", readAgain);
listenToOptions(readAgain);

async function loadPipelines() {
  const found = await pipelines();
  const named = ({ name, ready }) => new Option(ready ? name : `${name} (loading)`, name);
  pipeline.replaceChildren(...found.map(named));
  pipeline.disabled = false;
  byId("trouble").textContent = "";
}

async function chosenPipeline() {
  if (!pipeline.value) await loadPipelines();
  return pipeline.value;
}

function showTrouble(refusal) {
  byId("trouble").textContent = errorText(refusal);
}

async function start() {
  try {
    await loadPipelines();
  } catch (refusal) {
    showTrouble(refusal);
    if (refusal.code === "unauthorized" && (await askForKey(refusal.message))) await start();
  }
}

start();
