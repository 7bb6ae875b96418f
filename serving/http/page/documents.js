/** The documents of this session, read one after another. */

import { Refusal, read } from "./api.js";
import { askForKey } from "./key.js";
import { options } from "./options.js";
import { preview } from "./preview.js";

/**
 * @typedef {object} Doc
 * @property {File} file
 * @property {"waiting" | "reading" | "read" | "failed"} state
 * @property {number} page the page shown
 * @property {object | null} answer as `format=pages`, with the pages read so far
 * @property {number} total number of pages, known once the first was read
 * @property {number} milliseconds from upload to the last page
 * @property {{blob: Blob, width: number, height: number} | null} preview
 * @property {Refusal | null} refusal
 * @property {{pipeline: string, options: URLSearchParams} | null} asked how it was read
 */

/**
 * Dispatches "change" when a document has changed and "page" when another page of it was read, with
 * the document as `detail`.
 */
export class Documents extends EventTarget {
  /** @type {Doc[]} */
  list = [];
  #pipeline;
  #running = false;
  #abort = new AbortController();

  /** @param {() => Promise<string>} pipeline the name of the selected pipeline */
  constructor(pipeline) {
    super();
    this.#pipeline = pipeline;
  }

  /** @param {File[]} files @returns {Doc} the first of them */
  add(files) {
    const added = files.map((file) => ({ ...UNREAD, file, preview: null }));
    this.list.push(...added);
    queueMicrotask(() => this.#run()); // the caller has them before the first event
    return added[0];
  }

  /** Read a document again, from the start if it is in progress. @param {Doc} doc */
  again(doc) {
    if (doc.state === "reading") return this.#abort.abort(AGAIN);
    this.#set(doc, UNREAD);
    this.#run();
  }

  /** Cancel the document in progress. */
  cancel() {
    this.#abort.abort();
  }

  clear() {
    this.cancel();
    this.list = [];
  }

  async #run() {
    if (this.#running) return;
    this.#running = true;
    for (let doc; (doc = this.list.find(({ state }) => state === "waiting")); ) {
      this.#set(doc, { state: "reading" });
      this.#set(doc, await this.#outcome(doc));
    }
    this.#running = false;
  }

  async #outcome(doc) {
    const { signal } = (this.#abort = new AbortController());
    try {
      return { state: "read", ...(await this.#read(doc, signal)) };
    } catch (error) {
      if (signal.aborted) return signal.reason === AGAIN ? UNREAD : failed(CANCELLED);
      if (!(error instanceof Refusal)) {
        return failed(new Refusal("unreadable", `The browser cannot read the file: ${error.message}`));
      }
      const refused = error.code === "unauthorized";
      return refused && (await askForKey(error.message)) ? { state: "waiting" } : failed(error);
    }
  }

  async #read(doc, signal) {
    if (!doc.preview) this.#set(doc, { preview: await preview(doc.file) });
    const pipeline = await this.#pipeline();
    const how = { options: options(), signal };
    const pictures = doc.preview === null;
    doc.asked = { pipeline, options: how.options };
    const result = await this.#pages(doc, read(pipeline, doc.file, { ...how, pictures }));
    if (pictures || fits(doc.preview, result.answer.pages)) return result;
    // The browser oriented the picture differently from the server: use the server's.
    this.#set(doc, { ...UNREAD, asked: doc.asked, state: "reading", preview: null });
    return this.#pages(doc, read(pipeline, doc.file, { ...how, pictures: true }));
  }

  /** Collect the pages as they arrive. */
  async #pages(doc, reading) {
    const start = performance.now();
    const pages = [];
    let rest = {};
    for await (const { pages: total, ...part } of reading) {
      if (total === undefined) {
        rest = part;
        continue;
      }
      pages.push(part);
      Object.assign(doc, { answer: { pages }, total });
      this.#dispatch("page", doc);
    }
    return { answer: { ...rest, pages }, milliseconds: performance.now() - start };
  }

  #set(doc, values) {
    Object.assign(doc, values);
    this.#dispatch("change", doc);
  }

  #dispatch(type, doc) {
    if (this.list.includes(doc)) this.dispatchEvent(new CustomEvent(type, { detail: doc }));
  }
}

const AGAIN = "again";
const CANCELLED = new Refusal("cancelled", "You cancelled the request.");
const UNREAD = {
  state: "waiting",
  page: 0,
  answer: null,
  total: 0,
  milliseconds: 0,
  refusal: null,
  asked: null,
};

function failed(refusal) {
  return { state: "failed", refusal };
}

function fits(picture, pages) {
  const [page] = pages;
  return pages.length === 1 && page.width === picture.width && page.height === picture.height;
}
