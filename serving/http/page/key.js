/** The API key, if the server requires one: asked for once, kept in this tab only. */

import { sentence } from "./text.js";

const STORAGE_KEY = "ocr-key";

const dialog = document.getElementById("key-dialog");
const form = document.getElementById("key-form");
const input = document.getElementById("key-input");
const reason = document.getElementById("key-reason");

export function keptKey() {
  return sessionStorage.getItem(STORAGE_KEY);
}

/**
 * Ask for a key.
 *
 * @param {string} message the server's error message
 * @returns {Promise<boolean>} whether one was entered
 */
export function askForKey(message) {
  sessionStorage.removeItem(STORAGE_KEY);
  reason.textContent = sentence(message);
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "entered"), { once: true });
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  // A header cannot hold the line breaks that may have been copied with the key.
  sessionStorage.setItem(STORAGE_KEY, input.value.trim());
  dialog.close("entered");
});

document.getElementById("key-cancel").addEventListener("click", () => dialog.close(""));
