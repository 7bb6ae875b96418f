/** Options of the requests: `POST /ocr/v1/NAME` has them in its query, by the names of the fields. */

const dialog = document.getElementById("options-dialog");
const form = document.getElementById("options-form");
const button = document.getElementById("options");
let applied = new URLSearchParams();

/** Those that are set. @returns {URLSearchParams} */
export function options() {
  return applied;
}

/** @param {() => void} changed called once others are applied */
export function listen(changed) {
  button.addEventListener("click", () => {
    fill(applied);
    dialog.showModal();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close();
    const before = String(applied);
    applied = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    button.classList.toggle("set", applied.size > 0);
    button.ariaLabel = applied.size > 0 ? `Options, ${applied.size} set` : "Options";
    if (String(applied) !== before) changed();
  });
  document.getElementById("options-reset").addEventListener("click", () => fill(new URLSearchParams()));
  document.getElementById("options-cancel").addEventListener("click", () => dialog.close());
}

function fill(values) {
  for (const field of form.elements) {
    if (field.name) field.value = values.get(field.name) ?? "";
  }
}
