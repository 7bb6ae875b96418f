/** The bar above picture and text: documents, pages, counts, times. */

import { counted, duration, errorText, isDoubtful } from "./text.js";

const byId = (id) => document.getElementById(id);
const COPIED_FOR = 1600; // ms

/** @param {import("./documents.js").Doc[]} all @param {import("./documents.js").Doc} current */
export function show(all, current, look) {
  showDocuments(all, current, look);
  byId("name").textContent = current.file.name;
  const { answer, page, refusal, state, total } = current;
  showProgress(current);
  byId("export").hidden = answer === null || state === "reading";
  byId("resume").hidden = refusal === null;
  byId("pages").hidden = total < 2;
  showSummary(answer ? summary(current) : "");
  byId("timing").textContent = refusal && answer ? errorText(refusal) : stages(answer?.timing ?? {});
  byId("position").textContent = `Page ${page + 1} of ${total}`;
  byId("previous").disabled = page === 0;
  byId("next").disabled = page + 1 >= (answer?.pages.length ?? 0);
}

/** @param {import("./documents.js").Doc} doc of which a page was read */
export function summary({ answer, total, milliseconds }) {
  const lines = answer.pages.flatMap((page) => page.lines);
  const doubtful = lines.filter(({ score }) => isDoubtful(score)).length;
  const parts = [counted(lines.length, "line")];
  if (doubtful > 0) parts.push(`${doubtful} doubtful`);
  if (answer.pages.length < total) parts.unshift(progress({ answer, total }));
  if (milliseconds > 0) parts.push(duration(milliseconds));
  return parts.join(" · ");
}

/** @param {import("./documents.js").Doc} doc of which a page was read */
export function progress({ answer, total }) {
  return `${answer.pages.length} of ${counted(total, "page")} read`;
}

function showProgress({ state, answer, total }) {
  const area = byId("progress");
  const left = area.contains(document.activeElement) && state !== "reading";
  area.hidden = state !== "reading";
  if (left) byId("name").focus(); // the focused button is hidden now
  const meter = byId("meter");
  if (total > 1) {
    meter.max = total;
    meter.value = answer.pages.length;
  } else {
    meter.removeAttribute("value"); // indeterminate
  }
}

/** Show on the button whether the text was copied. @param {boolean} done */
export function copied(done) {
  const button = byId("copy");
  button.textContent = done ? "Copied" : "Copy failed";
  setTimeout(() => (button.textContent = "Copy all"), COPIED_FOR);
}

/** Show whether a download is being prepared. @param {boolean} busy */
export function preparing(busy) {
  byId("download").textContent = busy ? "Preparing…" : "Download";
}

byId("formats").addEventListener("beforetoggle", () => {
  const { left, bottom } = byId("download").getBoundingClientRect();
  byId("formats").style.setProperty("--left", `${left}px`);
  byId("formats").style.setProperty("--top", `${bottom}px`);
});

/** Show the summary with the doubtful lines highlighted. */
function showSummary(text) {
  const parts = text.split(/(\d+ doubtful)/).map((part, index) => {
    if (index % 2 === 0) return part;
    const mark = document.createElement("mark");
    mark.textContent = part;
    return mark;
  });
  byId("summary").replaceChildren(...parts);
}

function stages(timing) {
  return Object.entries(timing)
    .map(([stage, milliseconds]) => `${stage} ${duration(milliseconds)}`)
    .join(" · ");
}

function showDocuments(all, current, look) {
  const nav = byId("documents");
  nav.hidden = all.length < 2;
  const focused = [...nav.children].indexOf(document.activeElement);
  nav.replaceChildren(
    ...all.map((doc) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = doc.file.name;
      button.dataset.state = doc.state;
      button.title = doc.state;
      if (doc === current) button.ariaCurrent = "true";
      button.addEventListener("click", () => look(doc));
      return button;
    }),
  );
  nav.children[focused]?.focus();
}
