/** Export: the text to the clipboard, the answer to a file. */

/** The text of all pages, an empty line between two. @param {{pages: object[]}} answer */
export function textOf(answer) {
  return answer.pages.map(({ lines }) => lines.map(({ data }) => data).join("\n")).join("\n\n");
}

/** @param {string} text @returns {Promise<boolean>} whether the browser allowed it */
export async function copy(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  // Over plain HTTP from another machine, the clipboard API is not available.
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}

/** Save the answer, without the pictures that only this page needs. */
export function download(answer, name) {
  const pages = answer.pages.map(({ picture, ...page }) => page);
  const json = `${JSON.stringify({ ...answer, pages }, null, 1)}\n`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([json], { type: "application/json" }));
  link.download = `${name.replace(/\.[^.]+$/, "")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
