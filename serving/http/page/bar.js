/** What stands above the picture and the text: documents, pages, counts, times. */

import { counted, duration, isDoubtful } from "./words.js";

const byId = (id) => document.getElementById(id);
const COPIED_FOR = 1600; // ms

/** @param {import("./documents.js").Doc[]} all @param {import("./documents.js").Doc} current */
export function show(all, current, look) {
  showDocuments(all, current, look);
  byId("name").textContent = current.file.name;
  const { answer, page } = current;
  byId("take").hidden = answer === null;
  byId("pages").hidden = (answer?.pages.length ?? 0) < 2;
  showSummary(answer ? summary(current) : "");
  byId("timing").textContent = answer ? stages(answer.timing) : "";
  if (!answer) return;
  byId("position").textContent = `Page ${page + 1} of ${answer.pages.length}`;
  byId("previous").disabled = page === 0;
  byId("next").disabled = page === answer.pages.length - 1;
}

/** @param {import("./documents.js").Doc} doc one that was read */
export function summary({ answer, milliseconds }) {
  const lines = answer.pages.flatMap((page) => page.lines);
  const doubtful = lines.filter(({ score }) => isDoubtful(score)).length;
  const parts = [counted(lines.length, "line")];
  if (doubtful > 0) parts.push(`${doubtful} doubtful`);
  parts.push(duration(milliseconds));
  return parts.join(" · ");
}

/** Say on the button itself whether the copy was made. @param {boolean} done */
export function told(done) {
  const button = byId("copy");
  button.textContent = done ? "Copied" : "Not allowed";
  setTimeout(() => (button.textContent = "Copy all"), COPIED_FOR);
}

/** As it is said, the doubtful marked. */
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
