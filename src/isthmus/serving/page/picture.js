// A picture of the user's: chosen, dropped or pasted.

const LARGEST = 18e6;

/** Call `use` with {image: data URI, src, name} of each picture, `refuse` with why there is none. */
export function listen(use, refuse) {
  const file = document.getElementById("file"), veil = document.getElementById("drop");
  document.getElementById("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) take(file.files[0], use, refuse);
    file.value = "";
  });
  document.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (pasted) take(pasted, use, refuse);
  });
  let inside = 0;
  const show = (event, step) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    inside += step;
    veil.hidden = inside <= 0;
  };
  document.addEventListener("dragenter", (event) => show(event, 1));
  document.addEventListener("dragleave", (event) => show(event, -1));
  document.addEventListener("dragover", (event) => show(event, 0));
  document.addEventListener("drop", (event) => {
    show(event, 0);
    inside = 0;
    veil.hidden = true;
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0], use, refuse);
  });
}

/** A picture of the server as a data URI. */
export async function inline(src, signal) {
  const answer = await fetch(src, { signal });
  return dataUri(await answer.blob());
}

function dataUri(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error("The picture cannot be read."));
    reader.readAsDataURL(blob);
  });
}

function take(file, use, refuse) {
  if (!file.type.startsWith("image/") || file.type === "image/svg+xml") return refuse(`“${file.name}” is not a picture that can be read: take PNG, JPEG, WebP or GIF.`);
  if (file.size > LARGEST) return refuse(`“${file.name}” is larger than 18 MB.`);
  dataUri(file).then((image) => use({ image, src: image, name: file.name }), () => refuse(`“${file.name}” cannot be read.`));
}
