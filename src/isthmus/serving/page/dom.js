// Elements, made without ever reading text as HTML.

/** An element with attributes, properties (`on…`), custom properties (`--…`) and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.startsWith("--") || key === "width%") key === "width%" ? (made.style.width = `${value}%`) : made.style.setProperty(key, value);
    else if (key === "colour") made.style.backgroundColor = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** A message in the place of results, with a button or none. */
export function note(title, text, { error = false, button = null, onclick = null } = {}) {
  return element("div", { class: error ? "note error" : "note" },
    element("h2", {}, title), element("p", {}, ...spoken(text)),
    button && element("button", { class: "plain", type: "button", onclick }, button));
}

/** `code` in a text as such. */
function spoken(text) {
  return text.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));
}

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
