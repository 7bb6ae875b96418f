/** Whether the browser can show a file as the server reads it: one still picture, upright. */

const HEAD = 1024; // bytes; a PDF may begin with other things than its own mark

/**
 * @param {File} file
 * @returns {Promise<{blob: Blob, width: number, height: number} | null>} null: ask the server
 */
export async function still(file) {
  if (hasPages(await file.slice(0, HEAD).text())) return null;
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return { blob: file, width: image.naturalWidth, height: image.naturalHeight };
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** PDF and TIFF have pages, GIF may move; some browsers draw these, but not page by page. */
function hasPages(head) {
  return head.includes("%PDF-") || /^(II[*+]|MM\0[*+]|GIF8)/.test(head);
}
