/** Export: the text to the clipboard, a document in a format to a file. */

import { converted } from "./api.js";

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

/**
 * What a document was read as, in a format of the menu.
 *
 * @param {"text" | "json" | "pdf" | "image"} format image: of the page that is shown
 * @param {import("./documents.js").Doc} doc
 * @returns {Promise<File>}
 */
export async function inFormat(format, { answer, asked, file, page, total }) {
  const stem = file.name.replace(/\.[^.]+$/, "");
  const { pipeline, options } = asked;
  switch (format) {
    case "text":
      return new File([`${textOf(answer)}\n`], `${stem}.txt`, { type: "text/plain" });
    case "json": {
      const pages = answer.pages.map(({ picture, ...rest }) => rest); // only this page needs pictures
      const json = `${JSON.stringify({ ...answer, pages }, null, 1)}\n`;
      return new File([json], `${stem}.json`, { type: "application/json" });
    }
    case "pdf":
      return new File([await converted(pipeline, file, options, { format }, "application/pdf")], `${stem}.pdf`);
    case "image": {
      const query = { format, pages: answer.pages[page].page + 1 };
      const name = total > 1 ? `${stem}-page-${query.pages}.png` : `${stem}-boxes.png`;
      return new File([await converted(pipeline, file, options, query, "image/png")], name);
    }
  }
}

/** @param {File} file */
export function save(file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
