/** The key, where the server wants one: asked for once, kept for this tab alone. */

import { sentence } from "./words.js";

const PLACE = "ocr-key";

const dialog = document.getElementById("key-dialog");
const form = document.getElementById("key-form");
const input = document.getElementById("key-input");
const reason = document.getElementById("key-reason");

export function keptKey() {
  return sessionStorage.getItem(PLACE);
}

/**
 * Ask for a key.
 *
 * @param {string} message why, in the server's words
 * @returns {Promise<boolean>} whether one was given
 */
export function askForKey(message) {
  sessionStorage.removeItem(PLACE);
  reason.textContent = sentence(message);
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "given"), { once: true });
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  // A header takes no line breaks, which come along with a copied key.
  sessionStorage.setItem(PLACE, input.value.trim());
  dialog.close("given");
});

document.getElementById("key-cancel").addEventListener("click", () => dialog.close(""));
