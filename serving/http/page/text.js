/** Scores, times, counts and errors as text. */

const DOUBT = 0.9; // on the project's own rendered pages, a third of the lines below are misread

export const DOUBTFUL =
  "Doubtful: a score below 90 %. On our test pages a third of such lines are misread, so check them.";

/** @param {number} score of a line, 0 to 1 */
export function isDoubtful(score) {
  return score < DOUBT;
}

/** Rounded, but 100 % only for a score of 1. @param {number} score of a line, 0 to 1 */
export function percent(score) {
  return `${score < 1 ? Math.min(Math.round(score * 100), 99) : 100} %`;
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
  bad_request: "The server rejected this request",
  busy: "The server is busy",
  cancelled: "Cancelled",
  internal: "Internal server error",
  method_not_allowed: "The server does not allow this method",
  not_found: "Pipeline not found",
  not_ready: "The server is still starting",
  timeout: "The request timed out",
  too_large: "The file is too large",
  unauthorized: "API key required",
  undecodable: "This file cannot be opened",
  unreachable: "The server does not respond",
  unreadable: "This file cannot be read",
  unsupported_media: "This file is not an image or PDF",
};

const HINTS = {
  internal: "The server's log has details under the request ID below.",
  unreachable: "Is it still running, and are you connected to it?",
};

/** Sending the same file again gives the same error. */
const FINAL = new Set(["bad_request", "too_large", "undecodable", "unsupported_media"]);

/**
 * @param {import("./api.js").Refusal} refusal
 * @returns {{title: string, message: string, hint: string, again: boolean}} again: whether trying again may help
 */
export function explained({ code, message, wait }) {
  return {
    title: TITLES[code] ?? "Unexpected response",
    message: sentence(message),
    hint: wait > 0 ? `Try again in ${counted(wait, "second")}.` : (HINTS[code] ?? ""),
    again: !FINAL.has(code),
  };
}

/** In one line. @param {import("./api.js").Refusal} refusal */
export function errorText(refusal) {
  const { title, message } = explained(refusal);
  return `${title}. ${message}`;
}

/** Make a sentence: capitalise it and end it with a full stop. @param {string} text */
export function sentence(text) {
  const end = /[.!?)]$/.test(text) ? "" : ".";
  return text && text[0].toUpperCase() + text.slice(1) + end;
}
