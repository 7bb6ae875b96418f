/** What the page asks of the server it came from. Addresses are relative: a proxy may add a prefix. */

import { keptKey } from "./key.js";

const NO_ANSWER = "No answer came over the network.";

/** The server's no, in its own words. */
export class Refusal extends Error {
  /**
   * @param {string} code the contract's code, or "unreachable" or "unexpected"
   * @param {string} message
   * @param {{wait?: number, requestId?: string}} more seconds to wait; the id in the server's log
   */
  constructor(code, message, { wait = 0, requestId = "" } = {}) {
    super(message);
    this.code = code;
    this.wait = wait;
    this.requestId = requestId;
  }
}

/** @returns {Promise<{name: string, ready: boolean}[]>} */
export async function pipelines() {
  const { body } = await ask("ocr/v1");
  return body.pipelines;
}

/** A page to try without having one. @returns {Promise<File>} */
export async function example() {
  const response = await fetch("page/example.jpg").catch(() => null);
  if (!response?.ok) throw new Refusal("unreachable", NO_ANSWER);
  return new File([await response.blob()], "example.jpg", { type: "image/jpeg" });
}

/**
 * Read one image or document.
 *
 * @param {string} pipeline
 * @param {File} file
 * @param {{pictures: boolean, signal: AbortSignal}} how pictures: also the pages' own pictures
 * @returns {Promise<{answer: object, milliseconds: number}>} as `format=pages`; the server's time
 */
export async function read(pipeline, file, { pictures, signal }) {
  const form = new FormData();
  form.append("image", file, file.name);
  const query = pictures ? "?format=pages&pictures=true" : "?format=pages";
  const path = `ocr/v1/${encodeURIComponent(pipeline)}${query}`;
  const { response, body } = await ask(path, { method: "POST", body: form, signal });
  const timed = /\btotal;dur=([\d.]+)/.exec(response.headers.get("Server-Timing") ?? "");
  return { answer: body, milliseconds: timed ? Number(timed[1]) : 0 };
}

async function ask(path, options = {}) {
  const key = keptKey();
  const headers = { Accept: "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  let response, text;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refusal("unreachable", NO_ANSWER);
  }
  const body = parsed(text);
  if (response.ok && body) return { response, body };
  throw refusal(response, body);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function refusal(response, body) {
  const { code, message, request_id: requestId } = body?.error ?? {};
  const wait = Number(response.headers.get("Retry-After")) || 0;
  if (code) return new Refusal(code, String(message), { wait, requestId });
  const said = `HTTP ${response.status} ${response.statusText}`.trim();
  return new Refusal(response.status === 401 ? "unauthorized" : "unexpected", said, { wait });
}
