"use strict";
// What all parts of the page share: the data, what is selected, elements, figures in words.

const data = JSON.parse(document.getElementById("data").textContent);

/** What is shown: the length of run, the part of it, and a kernel of a plan. */
const state = { regime: 0, part: null, plan: 0, kernel: null };

const regimeOf = (plan) => data.plans[plan].regimes[Math.min(state.regime, data.plans[plan].regimes.length - 1)];

/** The part of a plan that holds the same layer as the one that is shown of the first plan. */
function partOf(plan) {
  const parts = regimeOf(plan).parts;
  const own = regimeOf(0).parts[state.part];
  if (plan === 0 || !own) return parts[state.part];
  const layer = own.layers[0];
  const same = layer === undefined
    ? parts.filter((part) => part.layers.length === 0)[outsideBefore(own)]
    : parts.find((part) => part.layers.includes(layer));
  return same || parts[regimeOf(plan).interior];
}

/** How many parts outside of layers come before one. */
function outsideBefore(own) {
  const parts = regimeOf(0).parts;
  return parts.slice(0, parts.indexOf(own)).filter((part) => part.layers.length === 0).length;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child);
  }
  return node;
}

/** An HTML element. */
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
/** An SVG element. */
const shape = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const byId = (id) => document.getElementById(id);

/** Three digits and a unit. */
function scaled(number, units, base) {
  let unit = 0;
  while (number >= base * 0.9995 && unit + 1 < units.length) {
    number /= base;
    unit += 1;
  }
  const digits = number >= 100 || unit === 0 && Number.isInteger(number) ? 0 : number >= 10 ? 1 : 2;
  return `${number.toFixed(digits)} ${units[unit]}`.trim();
}
const bytes = (number) => scaled(number, ["B", "kB", "MB", "GB", "TB"], 1000);
/** A number of things: all digits where there are few. */
const count = (number) => Number.isInteger(number) && number < 100000 ? `${number}` : scaled(number, ["", "k", "M", "G", "T", "P"], 1000);
const time = (us) => scaled(us, ["us", "ms", "s"], 1000);
const percent = (part) => `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;
const plural = (number, what) => `${number} ${what}${number === 1 ? "" : /(ch|s)$/.test(what) ? "es" : "s"}`;

const pen = document.createElement("canvas").getContext("2d");
const FONT = getComputedStyle(document.body).fontFamily;

/** Width of a text as the page draws it. */
function textWidth(text, size, weight = 400) {
  pen.font = `${weight} ${size}px ${FONT}`;
  return pen.measureText(text).width;
}

/** A text cut to a width. */
function shorten(text, width, size, weight) {
  const whole = textWidth(text, size, weight);
  if (whole <= width) return text;
  let length = Math.max(2, Math.floor((text.length * width) / whole));
  while (length > 2 && textWidth(`${text.slice(0, length)}\u2026`, size, weight) > width) length -= 1;
  return `${text.slice(0, length)}\u2026`;
}

/** Arithmetic of a launch, wherever it is done. */
const flops = (cost) => cost.tensor_flops + cost.simt_flops;
/** The first template of a kernel, after which it is coloured. */
const templateOf = (kernel) => kernel.phases[0]?.[0]?.template || "row";
/** The colour of a template, as the style sheet calls it. */
const hue = (template) => `var(--${template.replaceAll(" ", "-")})`;
const colour = (kernel) => `--c: ${hue(templateOf(kernel))}`;
const TEMPLATES = {
  row: "rows: element by element, norms, stencils",
  scan: "recurrence, token by token",
  chunked: "recurrence in chunks, on tensor cores",
  gemm: "matrix products",
  gemv: "products of few rows",
  thin: "products of few rows on tensor cores",
  attend: "softmax attention",
  "last row": "the last token of each sequence, where no other is asked for",
  scatter: "elements are placed in rows of zeros",
  "row sum": "sums over all tokens: gradients of parameters",
};
/** The terms of a predicted time: the largest of the first five, plus the others. */
const TERMS = [
  ["memory_us", "memory"],
  ["tensor_us", "tensor cores"],
  ["simt_us", "arithmetic"],
  ["special_us", "special functions"],
  ["serial_us", "serial steps"],
  ["launch_us", "launch"],
  ["barrier_us", "grid barriers"],
  ["latency_us", "latency"],
  ["underfill_us", "too few blocks"],
];

/** Shows a few lines beside the pointer while it is on a node. */
function tip(node, lines) {
  const box = byId("tip");
  const place = (event) => {
    const x = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8);
    const below = event.clientY + 16;
    const y = below + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 10 : below;
    box.style.left = `${Math.max(4, x)}px`;
    box.style.top = `${Math.max(4, y)}px`;
  };
  node.addEventListener("pointerenter", (event) => {
    box.replaceChildren(...lines().filter(Boolean).map((line) => (line instanceof Node ? line : el("div", {}, line))));
    box.hidden = false;
    place(event);
  });
  node.addEventListener("pointermove", place);
  node.addEventListener("pointerleave", () => { box.hidden = true; });
}
