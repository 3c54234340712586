// Pictures in rows of one height; arrow keys go from one to the next.

import { element, percent } from "./dom.js";

const NARROWEST = 0.6, WIDEST = 2.4;

/** The hits of a search as a list; `choose` is called with the hit that is clicked. */
export function grid(hits, choose, purpose) {
  const list = element("ul", { class: "grid" }, ...hits.map((hit) => tile(hit, choose, purpose)));
  list.addEventListener("keydown", walk);
  return list;
}

/** As many grey tiles as will soon be pictures. */
export function waiting(count = 12) {
  const ratios = [1, 1.3, 0.8, 1.1, 1.5, 0.9];
  return element("ul", { class: "grid waiting", "aria-hidden": true }, ...Array.from({ length: count }, (_, i) =>
    element("li", { "--ratio": ratios[i % ratios.length] }, element("div", { class: "tile" }, element("div", { class: "picture" })))));
}

function tile(hit, choose, purpose) {
  const name = hit.caption || hit.id;
  const picture = element("img", { class: "picture", src: hit.picture, alt: name, loading: "lazy", decoding: "async" });
  picture.addEventListener("error", () => picture.replaceWith(element("span", { class: "picture absent" }, "no picture kept")));
  return element("li", { "--ratio": ratio(hit) },
    element("button", { class: "tile", type: "button", title: `${name}\n${hit.id}`, "aria-label": spoken(hit, name, purpose), onclick: () => choose(hit) },
      picture, element("span", { class: "caption" }, name), hit.score === null ? null : facts(hit)));
}

function facts(hit) {
  const known = hit.probability !== null;
  return element("span", { class: "facts" },
    known && element("b", { class: hit.probability < 0.5 ? "weak" : null, title: "probability that it fits" }, percent(hit.probability)),
    element("span", { title: "cosine with the query" }, hit.score.toFixed(3)));
}

function spoken(hit, name, purpose) {
  const sure = hit.probability === null ? "" : `, ${percent(hit.probability)} probable`;
  return `${name}${sure}. ${purpose}`;
}

function ratio(hit) {
  const own = hit.width && hit.height ? hit.width / hit.height : 1;
  return Math.min(WIDEST, Math.max(NARROWEST, own)).toFixed(3);
}

function walk(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: "up", ArrowDown: "down" }[event.key];
  if (step === undefined) return;
  const tiles = [...event.currentTarget.querySelectorAll("button.tile")];
  const here = tiles.indexOf(document.activeElement);
  const next = typeof step === "number" ? tiles[here + step] : across(tiles, here, step === "down" ? 1 : -1);
  if (next) {
    next.focus();
    event.preventDefault();
  }
}

/** The tile of the next row whose middle is nearest. */
function across(tiles, here, way) {
  const [middle, top] = centre(tiles[here]);
  let best = null, least = Infinity;
  for (const one of tiles) {
    const [x, y] = centre(one);
    if (way * (y - top) < 8) continue;
    const far = Math.abs(x - middle) + 20 * Math.abs(y - top);
    if (far < least) [best, least] = [one, far];
  }
  return best;
}

function centre(tile) {
  const box = tile.getBoundingClientRect();
  return [box.left + box.width / 2, box.top];
}
