/** Requests to the server. URLs are relative because a proxy may add a path prefix. */

import { keptKey } from "./key.js";

const NO_ANSWER = "There was no response.";
const CUT_OFF = "The response was cut off.";
const PAGE_BY_PAGE = "application/x-ndjson";

/** An error response, or none at all. */
export class Refusal extends Error {
  /**
   * @param {string} code the contract's code, or "unreachable" or "unexpected"
   * @param {string} message
   * @param {{wait?: number, requestId?: string}} more seconds to wait; the request ID in the server's log
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
  const response = await send("ocr/v1", "application/json");
  return (await whole(response.json())).pipelines;
}

/** The example page. @returns {Promise<File>} */
export async function example() {
  const response = await fetch("page/example.jpg").catch(() => null);
  if (!response?.ok) throw new Refusal("unreachable", NO_ANSWER);
  return new File([await response.blob()], "example.jpg", { type: "image/jpeg" });
}

/**
 * Read one image or document. Aborting the signal ends the request, and the server stops reading.
 *
 * @param {string} pipeline
 * @param {File} file
 * @param {{options: URLSearchParams, pictures: boolean, signal: AbortSignal}} how pictures: also return
 *   the pages' pictures
 * @yields {object} as `format=pages` has them, each page as soon as it is read, its `picture` a
 *   Blob; then the rest of that answer
 */
export async function* read(pipeline, file, { options, pictures, signal }) {
  const query = { format: "pages", ...(pictures && { pictures }) };
  const response = await post(pipeline, file, options, query, PAGE_BY_PAGE, signal);
  let part = {};
  try {
    for await (const line of linesOf(response.body)) {
      part = JSON.parse(line);
      if (part.error) break;
      if (part.picture) part.picture = jpeg(part.picture);
      yield part;
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Refusal("unreachable", CUT_OFF);
  }
  if (part.error) throw refusal(response, part);
  if (!part.request_id) throw new Refusal("unreachable", CUT_OFF);
}

/**
 * What was read, in another format.
 *
 * @param {string} type of the answer
 * @returns {Promise<Blob>}
 */
export async function converted(pipeline, file, options, query, type) {
  const response = await post(pipeline, file, options, query, type);
  return whole(response.blob());
}

function post(pipeline, file, options, query, type, signal) {
  const body = new FormData();
  body.append("image", file, file.name);
  const all = new URLSearchParams([...options, ...Object.entries(query)]);
  return send(`ocr/v1/${encodeURIComponent(pipeline)}?${all}`, type, { method: "POST", body, signal });
}

/** A response's body, if all of it arrives. @param {Promise} body */
function whole(body) {
  return body.catch(() => {
    throw new Refusal("unreachable", CUT_OFF);
  });
}

/** The response, if it is of the requested type. */
async function send(path, type, options = {}) {
  const key = keptKey();
  const headers = { Accept: type, ...(key && { Authorization: `Bearer ${key}` }) };
  let response, text;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.ok && response.headers.get("Content-Type")?.startsWith(type)) return response;
    text = await response.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refusal("unreachable", NO_ANSWER);
  }
  throw refusal(response, parsed(text));
}

/** @param {ReadableStream<Uint8Array>} body */
async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader(); // not every browser can iterate a stream
  let rest = "";
  try {
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const lines = (rest + piece.value).split("\n");
      rest = lines.pop();
      yield* lines;
    }
  } finally {
    reader.cancel().catch(() => {}); // stop the download
  }
}

/** As a Blob, which the browser can keep out of memory: a long document has many. @param {string} base64 */
function jpeg(base64) {
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  return new Blob([bytes], { type: "image/jpeg" });
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
  const statusLine = `HTTP ${response.status} ${response.statusText}`.trim();
  return new Refusal(response.status === 401 ? "unauthorized" : "unexpected", statusLine, { wait });
}
