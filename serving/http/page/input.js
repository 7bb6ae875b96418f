/** Files by drop, paste or file dialog. */

/** @param {(files: File[]) => void} take */
export function listen(take) {
  const input = document.getElementById("files");
  input.addEventListener("change", () => {
    give([...input.files]);
    input.value = ""; // the same file may be chosen again
  });
  for (const id of ["choose", "open"]) {
    document.getElementById(id).addEventListener("click", () => input.click());
  }

  window.addEventListener("paste", (event) => give([...(event.clipboardData?.files ?? [])]));

  window.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    document.body.classList.add("dragging");
  });
  window.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dragging");
  });
  window.addEventListener("drop", (event) => {
    document.body.classList.remove("dragging");
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    give([...event.dataTransfer.files]);
  });

  function give(files) {
    if (files.length > 0) take(files);
  }
}
