/** Whether the browser can show a file as the server reads it: as one upright picture. */

const HEAD = 1024; // bytes; other data may come before the PDF header

/**
 * @param {File} file
 * @returns {Promise<{blob: Blob, width: number, height: number} | null>} null: use the picture from the server
 */
export async function preview(file) {
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

/** PDF and TIFF have pages, GIF may be animated; browsers do not show these page by page. */
function hasPages(head) {
  return head.includes("%PDF-") || /^(II[*+]|MM\0[*+]|GIF8)/.test(head);
}
