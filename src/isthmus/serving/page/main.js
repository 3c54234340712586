// What is asked, what is shown, and the address that remembers both.

import { call } from "./api.js";
import { note, percent } from "./dom.js";
import { grid, waiting } from "./grid.js";
import { labelView, segmentView } from "./names.js";
import { inline, listen } from "./picture.js";
import { compareView, foundView, told } from "./search.js";

const TABS = {
  search: { go: "Search", hint: "Describe a picture, or drop one here", field: "query", needs: "search" },
  compare: { go: "Compare", hint: "One query for two models", field: "query", needs: "search" },
  label: { go: "Label", hint: "Names, with commas: cat, dog, something else", field: "names", needs: "classify" },
  segment: { go: "Segment", hint: "Names, with commas: sky, tree, house", field: "names", needs: "segment" },
  ask: { go: "Ask", hint: "A question about the picture", field: "question", needs: "ask" },
};
const at = (id) => document.getElementById(id);
const state = { tab: "search", query: "", names: "", question: "", label: "", folder: "", picture: null, model: null, other: null, least: 0.5, found: null };
const dropped = []; // pictures of the user's, for the way back
const filters = {}; // by model: the labels and folders of its index
let models = [], running = null;

const field = () => TABS[state.tab].field;
const able = (tab) => models.filter((one) => one.capabilities.includes(TABS[tab].needs));
const classes = () => [...new Set(state.names.split(",").map((name) => name.trim()).filter(Boolean))];
const asked = () => (state.query ? `“${state.query}”` : "this picture");

// --- what is shown ---------------------------------------------------------------------------------------

function show(...what) {
  at("results").replaceChildren(...what);
}

function tell(text) {
  at("status").textContent = text;
}

function draw() {
  const tab = TABS[state.tab], input = at("text");
  for (const button of document.querySelectorAll("[role=tab]")) {
    const own = button.dataset.tab === state.tab;
    button.setAttribute("aria-selected", String(own));
    button.tabIndex = own ? 0 : -1;
    button.hidden = button.dataset.tab === "ask" && !able("ask").length;
  }
  at("results").setAttribute("aria-labelledby", `tab-${state.tab}`);
  document.querySelector(".go").textContent = tab.go;
  input.value = state[tab.field];
  input.placeholder = state.picture && tab.field === "query" ? "More like it; add words to change it" : tab.hint;
  input.setAttribute("aria-label", { query: "Query", names: "Names, with commas", question: "Question" }[tab.field]);
  at("chip").hidden = !state.picture;
  if (state.picture) Object.assign(at("chip").querySelector("img"), { src: state.picture.src, alt: state.picture.name });
  const known = [state.found?.results ?? state.found ?? []].flat().some((one) => one.hits?.some((hit) => hit.probability !== null));
  at("sureness").hidden = tab.field !== "query" || !known;
  at("sure").value = 100 * state.least;
  document.querySelector("output[for=sure]").textContent = state.least ? `at least ${percent(state.least)}` : "everything";
  drawModels();
  drawFilters();
}

/** Labels and folders to choose by, where the index has more than one. */
function drawFilters() {
  const offered = TABS[state.tab].needs === "search" ? filters[state.model] : null;
  for (const [key, all, listed] of [["label", "all labels", offered?.labels], ["folder", "all folders", offered?.folders]]) {
    const select = at(`only-${key}`);
    select.closest("label").hidden = !(listed?.length > 1);
    const options = (listed ?? []).map((one) => new Option(`${one.name} (${one.pictures.toLocaleString("en")})`, one.name, false, one.name === state[key]));
    select.replaceChildren(new Option(all, ""), ...options);
  }
}

/** Ask once what the index of the model can be filtered by; a choice that it does not have is dropped. */
async function offer(signal) {
  if (TABS[state.tab].needs !== "search" || !able("search").length) return;
  filters[state.model] ??= await call(`/api/models/${state.model}/filters`, undefined, signal);
  for (const [key, listed] of [["label", "labels"], ["folder", "folders"]]) {
    if (!filters[state.model][listed].some((one) => one.name === state[key])) state[key] = "";
  }
  drawFilters();
}

const chosen = () => Object.fromEntries(["label", "folder"].filter((key) => state[key]).map((key) => [key, state[key]]));

function drawModels() {
  const some = able(state.tab), compared = state.tab === "compare";
  for (const [id, key] of [["model", "model"], ["other", "other"]]) {
    at(id).replaceChildren(...some.map((one) => new Option(one.id, one.id, false, one.id === state[key])));
  }
  at("beside-model").hidden = !compared;
  at("model").closest("label").hidden = some.length < 2;
}

function drawFound() {
  const least = state.least;
  if (state.found?.results) {
    tell(state.found.results.map((one) => `${one.model}: ${told(one, least) || "nothing fits."}`).join(" "));
    show(compareView(state.found.results, asked(), least, like));
  } else if (state.found) {
    tell(told(state.found, least));
    show(foundView(state.found, asked(), least, like));
  }
}

// --- what is asked ---------------------------------------------------------------------------------------

async function run() {
  running?.abort();
  const mine = (running = new AbortController());
  state.found = null;
  draw();
  tell("");
  document.title = state.query ? `${state.query} · isthmus` : "isthmus";
  const wait = setTimeout(() => { show(waiting()); tell("Looking…"); }, 150);
  at("results").setAttribute("aria-busy", "true");
  try {
    await offer(mine.signal);
    await ({ search, compare, label, segment, ask })[state.tab](mine.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    clearTimeout(wait);
    tell("");
    show(note("That did not work", error.message, { error: true, button: "Try again", onclick: run }));
  } finally {
    clearTimeout(wait);
    if (running === mine) at("results").removeAttribute("aria-busy");
  }
}

/** The picture as the API takes it: a row is one of its own model's index, for another model its pixels are sent. */
async function pictured(signal) {
  if (!state.picture) return {};
  if (state.picture.row !== undefined && state.picture.model === state.model) return { row: state.picture.row };
  return { image: state.picture.image ?? await inline(state.picture.src, signal) };
}

async function query(signal) {
  return { ...(state.query ? { text: state.query } : {}), ...await pictured(signal), ...chosen(), k: 60 };
}

async function search(signal) {
  if (!able("search").length) return noIndex();
  if (!state.query && !state.picture) return begin(signal, like, "Show more like it.");
  use(await call("/api/search", { model: state.model, ...await query(signal) }, signal), signal);
}

async function compare(signal) {
  if (able("search").length < 2) return show(note("One model here", "To compare two, give both and an index of each: `isthmus serve first/ second/ --index first.index/ second.index/`."));
  if (!state.query && !state.picture) return show(note("One query, two models", "Type what you look for, or drop a picture: both answer, side by side."));
  use(await call("/api/compare", { models: [state.model, state.other], ...await query(signal) }, signal), signal);
}

function use(found, signal) {
  if (signal.aborted) return;
  state.found = found;
  draw();
  drawFound();
}

async function label(signal) {
  if (!state.picture) return begin(signal, take, "Label it.");
  if (classes().length < 2) return show(note("Two names or more", "Name what it could be, with commas between: the bars say which fits best."));
  const found = await call("/api/classify", { model: state.model, ...await pictured(signal), classes: classes() }, signal);
  tell("");
  show(labelView(state.picture, found.classes));
}

async function segment(signal) {
  if (!able("segment").length) return show(note("No model here sees patches", "Segmentation needs an image encoder with tokens, such as a vision transformer with `?pool=cls+mean`."));
  if (!state.picture) return begin(signal, take, "Segment it.");
  if (!classes().length) return show(note("Name what is in it", "With commas between; every pixel gets the name that fits best."));
  const found = await call("/api/segment", { model: state.model, ...await pictured(signal), classes: classes() }, signal);
  const view = await segmentView(state.picture, found);
  if (signal.aborted) return;
  tell("");
  show(view);
}

async function ask(signal) {
  if (!state.picture) return begin(signal, take, "Ask about it.");
  if (!state.question) return show(note("Ask about it", "The model chooses among the answers that it was trained on."));
  const found = await call("/api/ask", { model: state.model, ...await pictured(signal), question: state.question }, signal);
  tell("");
  show(labelView(state.picture, found.answers, "The most probable of the answers that the model was trained on."));
}

/** Before anything is asked: some pictures to begin with. */
async function begin(signal, choose, purpose) {
  const model = able("search").find((one) => one.id === state.model) ?? able("search")[0];
  if (!model) return show(note("Drop a picture", "Or choose one with the button in the field above."));
  const only = state.tab === "search" ? chosen() : {};
  const some = await call(`/api/models/${model.id}/pictures?${new URLSearchParams(only)}`, undefined, signal);
  const what = Object.values(only).join(", ");
  tell(`${what ? `Pictures of ${what}.` : `${model.pictures.toLocaleString("en")} pictures.`} ${state.tab === "search" ? "Some of them:" : "Drop one of yours, or take one of these:"}`);
  show(grid(some.hits, (hit) => choose(hit, model.id), purpose));
}

function noIndex() {
  show(note("Nothing to search yet", "No model here has an index of pictures. `isthmus index MODEL PICTURES --out INDEX` makes one, `isthmus serve MODEL --index INDEX` serves it."));
}

/** Take a picture of the index as the query. */
function take(hit, model) {
  state.picture = { row: hit.row, model, src: hit.picture, name: hit.caption || hit.id };
  go();
}

function like(hit, model) {
  state.query = "";
  take(hit, model);
  window.scrollTo({ top: 0 });
}

function sure(least) {
  state.least = least;
  draw();
  drawFound();
}

// --- the address -----------------------------------------------------------------------------------------

function go() {
  const picture = state.picture ?? {};
  const kept = { tab: state.tab, q: state.query, names: state.names, ask: state.question, label: state.label, folder: state.folder, row: picture.row ?? "", of: picture.model ?? "", model: state.model ?? "" };
  const told = new URLSearchParams(Object.entries(kept).filter(([name, value]) => value !== "" && !(name === "tab" && value === "search") && !(name === "model" && value === models[0]?.id)));
  if (picture.image && !dropped.includes(picture)) dropped.push(picture);
  history.pushState({ name: picture.name, dropped: dropped.indexOf(picture) }, "", `#${told}`);
  run();
}

function recall() {
  const told = new URLSearchParams(location.hash.slice(1));
  state.tab = told.get("tab") in TABS ? told.get("tab") : "search";
  state.query = told.get("q") ?? "";
  state.names = told.get("names") ?? "";
  state.question = told.get("ask") ?? "";
  state.label = told.get("label") ?? "";
  state.folder = told.get("folder") ?? "";
  state.model = models.some((one) => one.id === told.get("model")) ? told.get("model") : models[0].id;
  state.picture = dropped[history.state?.dropped] ?? remembered(told.get("row"), told.get("of"));
  settle();
}

/** The picture that an address names, or none. */
function remembered(row, model) {
  if (!/^\d+$/.test(row ?? "") || !models.some((one) => one.id === model)) return null;
  const src = `/api/models/${model}/pictures/${row}`;
  return { row: Number(row), model, src, name: history.state?.name ?? "a picture of the index" };
}

/** A model that can do what the tab needs. */
function settle() {
  const some = able(state.tab).map((one) => one.id);
  if (some.length && !some.includes(state.model)) state.model = some[0];
  if (!some.includes(state.other) || state.other === state.model) state.other = some.find((id) => id !== state.model) ?? state.model;
}

// --- what the user does ----------------------------------------------------------------------------------

function change(tab) {
  state[field()] = at("text").value.trim();
  state.tab = tab;
  settle();
  go();
  at(`tab-${tab}`).focus();
}

function removePicture() {
  state.picture = null;
  go();
  at("text").focus();
}

function keys(event) {
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    at("text").focus();
    at("text").select();
  } else if (event.key === "Escape" && state.picture) removePicture();
  else if (event.key === "ArrowDown" && event.target === at("text")) {
    document.querySelector("button.tile")?.focus();
    event.preventDefault();
  }
}

function walkTabs(event) {
  const names = Object.keys(TABS).filter((name) => !at(`tab-${name}`).hidden), step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) change(names[(names.indexOf(state.tab) + step + names.length) % names.length]);
}

function listenAll() {
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    state[field()] = at("text").value.trim();
    go();
  });
  document.querySelector("[role=tablist]").addEventListener("click", (event) => event.target.dataset.tab && change(event.target.dataset.tab));
  document.querySelector("[role=tablist]").addEventListener("keydown", walkTabs);
  at("sure").addEventListener("input", (event) => sure(event.target.value / 100));
  at("chip").querySelector("button").addEventListener("click", removePicture);
  for (const [id, key] of [["model", "model"], ["other", "other"], ["only-label", "label"], ["only-folder", "folder"]]) {
    at(id).addEventListener("change", (event) => { state[key] = event.target.value; go(); });
  }
  addEventListener("popstate", () => { recall(); run(); });
  addEventListener("keydown", keys);
  listen((picture) => { state[field()] = at("text").value.trim(); state.picture = picture; go(); },
    (why) => { running?.abort(); tell(""); show(note("Not this one", why, { error: true })); });
}

async function start() {
  draw();
  try {
    models = (await call("/v1/models")).data;
  } catch (error) {
    return show(note("That did not work", error.message, { error: true, button: "Try again", onclick: () => location.reload() }));
  }
  recall();
  listenAll();
  await run();
}

start();
