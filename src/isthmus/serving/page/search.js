// Search and comparison: what was found, and how sure it is.

import { element, note, percent } from "./dom.js";
import { grid } from "./grid.js";

const LIKE = "Show more like it.";
const NEAREST = 12; // shown where nothing fits

/** What was found, from `least` on; nothing fits where that is nothing. */
export function foundView(found, asked, least, choose) {
  const known = found.hits.some((hit) => hit.probability !== null);
  const shown = known ? found.hits.filter((hit) => hit.probability >= least) : found.hits;
  if (!found.hits.length) return note("No pictures", "The index has none to show.");
  const tiles = (hits) => grid(hits, (hit) => choose(hit, found.model), LIKE);
  if (shown.length) return tiles(shown);
  const text = `The nearest are less than ${percent(least)} probable. Here they are all the same.`;
  return element("div", { class: "faint" }, note(`Nothing fits ${asked}`, text), tiles(found.hits.slice(0, NEAREST)));
}

/** One line on what is shown. */
export function told(found, least) {
  const known = found.hits.some((hit) => hit.probability !== null);
  if (!known) return `The ${found.hits.length} nearest. No probability is known.`;
  const shown = found.hits.filter((hit) => hit.probability >= least).length;
  if (!shown) return "";
  const rest = found.hits.length - shown;
  return `${shown} ${shown === 1 ? "picture" : "pictures"} of at least ${percent(least)}${rest ? `; ${rest} less probable ones are hidden` : ""}.`;
}

/** Two models on one query, side by side. */
export function compareView(results, asked, least, choose) {
  const both = new Set(results[0].hits.map((hit) => hit.id).filter((id) => results[1].hits.some((hit) => hit.id === id)));
  return element("div", { class: "side-by-side" }, ...results.map((found) =>
    element("section", { "aria-label": found.model },
      element("h2", {}, `${found.model} `, element("span", {}, `${both.size} of ${found.hits.length} nearest in common`)),
      foundView(found, asked, least, choose))));
}
