// A picture and the names of things: bars, or colours over it.

import { element, percent } from "./dom.js";

const SHARES = "The names share 100 %, also where none of them fits: add one for what is left, such as “something else”.";

/** Which of the names the picture shows. */
export function labelView(picture, classes, remark = SHARES) {
  const bars = classes.map((one) => element("li", {},
    element("div", { class: "name" }, element("span", {}, one.name), element("span", {}, percent(one.probability, one.probability < 0.1 ? 1 : 0))),
    element("div", { class: "track" }, element("i", { "width%": 100 * one.probability }))));
  return element("div", { class: "studio" },
    element("figure", { class: "stage" }, element("img", { src: picture.src, alt: picture.name })),
    element("div", {}, element("ol", { class: "bars", "aria-label": "Probability of each name" }, ...bars),
      element("p", { class: "fine" }, remark)));
}

/** The picture under the colours of the names, with a legend; a name alone is shown by its button. */
export async function segmentView(picture, found) {
  const canvas = element("canvas", { width: found.width, height: found.height, "aria-hidden": true });
  const labels = await pixels(found);
  let alone = null;
  paint(canvas, labels, found, alone);
  const entries = found.classes.map((one, i) => ({ ...one, i })).filter((one) => one.share >= 0.001).sort((a, b) => b.share - a.share);
  const legend = element("ul", { class: "legend", "aria-label": "Classes" }, ...entries.map((one) => element("li", {},
    element("button", { type: "button", "aria-pressed": "false", onclick: (event) => press(event.currentTarget, one.i) },
      element("i", { colour: one.colour }), element("span", {}, one.name), element("span", { class: "share" }, percent(one.share))))));
  function press(button, i) {
    alone = alone === i ? null : i;
    for (const other of legend.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button && alone !== null));
    paint(canvas, labels, found, alone);
  }
  const opacity = element("input", { type: "range", id: "opacity", min: 0, max: 100, value: 75, oninput: (event) => { canvas.style.opacity = event.target.value / 100; } });
  canvas.style.opacity = 0.75;
  const alt = `${picture.name}, with ${entries.map((one) => `${one.name} ${percent(one.share)}`).join(", ")}`;
  return element("div", { class: "studio" },
    element("figure", { class: "stage" }, element("img", { src: picture.src, alt }), canvas),
    element("div", {}, legend, element("div", { class: "opacity" }, element("label", { for: "opacity" }, "Colours"), opacity)));
}

/** The number of each pixel's class. */
async function pixels(found) {
  const image = new Image();
  image.src = found.labels;
  await image.decode();
  const canvas = element("canvas", { width: found.width, height: found.height });
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, found.width, found.height).data;
  return Uint8Array.from({ length: found.width * found.height }, (_, i) => rgba[4 * i]);
}

function paint(canvas, labels, found, alone) {
  const colours = found.classes.map((one) => [1, 3, 5].map((at) => parseInt(one.colour.slice(at, at + 2), 16)));
  const context = canvas.getContext("2d"), picture = context.createImageData(found.width, found.height);
  for (let i = 0; i < labels.length; i++) {
    const [red, green, blue] = colours[labels[i]];
    picture.data.set([red, green, blue, alone === null || alone === labels[i] ? 255 : 0], 4 * i);
  }
  context.putImageData(picture, 0, 0);
}
