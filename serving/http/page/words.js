/** Numbers and errors in plain words. */

const DOUBT = 0.9; // on the project's own rendered pages, a third of the lines below are misread

/** @param {number} score of a line, 0 to 1 */
export function isDoubtful(score) {
  return score < DOUBT;
}

/** Never 100 % for what is less. @param {number} score of a line, 0 to 1 */
export function percent(score) {
  return `${Math.floor(score * 100)} %`;
}

/** @param {number} milliseconds */
export function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** @param {number} count @param {string} noun */
export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

const TITLES = {
  bad_request: "The server cannot use this request",
  busy: "The server is busy",
  cancelled: "Cancelled",
  internal: "Something broke in the server",
  method_not_allowed: "The server does not take this",
  not_found: "This pipeline is not there",
  not_ready: "The server is still starting",
  timeout: "It took too long",
  too_large: "This is too large",
  unauthorized: "A key is needed",
  undecodable: "This file cannot be opened",
  unreachable: "The server does not answer",
  unreadable: "This file cannot be read",
  unsupported_media: "This is no image or PDF",
};

const HINTS = {
  internal: "Its log says more under the number below.",
  unreachable: "Is it still running, and are you connected to it?",
};

/** The same file gets the same answer again. */
const FINAL = new Set(["bad_request", "too_large", "undecodable", "unsupported_media"]);

/**
 * @param {import("./api.js").Refusal} refusal
 * @returns {{title: string, message: string, hint: string, again: boolean}} again: may help
 */
export function explained({ code, message, wait }) {
  return {
    title: TITLES[code] ?? "The answer was not understood",
    message: sentence(message),
    hint: wait > 0 ? `It asks to wait ${counted(wait, "second")}.` : (HINTS[code] ?? ""),
    again: !FINAL.has(code),
  };
}

/** As a sentence: a capital, and a full stop. @param {string} text */
export function sentence(text) {
  const end = /[.!?)]$/.test(text) ? "" : ".";
  return text && text[0].toUpperCase() + text.slice(1) + end;
}
