/** The documents of this visit, read one after another. */

import { Refusal, read } from "./api.js";
import { askForKey } from "./key.js";
import { still } from "./still.js";

/**
 * @typedef {object} Doc
 * @property {File} file
 * @property {"waiting" | "reading" | "read" | "failed"} state
 * @property {number} page the page that is looked at
 * @property {object | null} answer as `format=pages`, of the pages that were read so far
 * @property {number} total pages that it has, once the first one was read
 * @property {number} milliseconds from sending it to the last page
 * @property {{blob: Blob, width: number, height: number} | null} still
 * @property {Refusal | null} refusal
 */

/**
 * Says "change", with the document as `detail`, whenever one has changed, and "page" when one more
 * page of it was read.
 */
export class Documents extends EventTarget {
  /** @type {Doc[]} */
  list = [];
  #pipeline;
  #running = false;
  #abort = new AbortController();

  /** @param {() => Promise<string>} pipeline the name of the one chosen */
  constructor(pipeline) {
    super();
    this.#pipeline = pipeline;
  }

  /** @param {File[]} files @returns {Doc} the first of them */
  add(files) {
    const added = files.map((file) => ({ ...UNREAD, file, still: null }));
    this.list.push(...added);
    queueMicrotask(() => this.#run()); // the caller gets them before anything is said of them
    return added[0];
  }

  /** Read a document anew, from the start if it is being read. @param {Doc} doc */
  again(doc) {
    if (doc.state === "reading") return this.#abort.abort(AGAIN);
    this.#set(doc, UNREAD);
    this.#run();
  }

  /** Give up the one that is being read. */
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
    if (!doc.still) this.#set(doc, { still: await still(doc.file) });
    const pipeline = await this.#pipeline();
    const pictures = doc.still === null;
    const found = await this.#pages(doc, read(pipeline, doc.file, { pictures, signal }));
    if (pictures || fits(doc.still, found.answer.pages)) return found;
    // The browser turned the picture otherwise than the server did: take the server's.
    this.#set(doc, { ...UNREAD, state: "reading", still: null });
    return this.#pages(doc, read(pipeline, doc.file, { pictures: true, signal }));
  }

  /** Take them as they come. */
  async #pages(doc, reading) {
    const start = performance.now();
    const pages = [];
    let rest = {};
    for await (const { pages: total, ...told } of reading) {
      if (total === undefined) {
        rest = told;
        continue;
      }
      pages.push(told);
      Object.assign(doc, { answer: { pages }, total });
      this.#say("page", doc);
    }
    return { answer: { ...rest, pages }, milliseconds: performance.now() - start };
  }

  #set(doc, values) {
    Object.assign(doc, values);
    this.#say("change", doc);
  }

  #say(what, doc) {
    if (this.list.includes(doc)) this.dispatchEvent(new CustomEvent(what, { detail: doc }));
  }
}

const AGAIN = "again";
const CANCELLED = new Refusal("cancelled", "You ended the reading.");
const UNREAD = {
  state: "waiting",
  page: 0,
  answer: null,
  total: 0,
  milliseconds: 0,
  refusal: null,
};

function failed(refusal) {
  return { state: "failed", refusal };
}

function fits(picture, pages) {
  const [page] = pages;
  return pages.length === 1 && page.width === picture.width && page.height === picture.height;
}
