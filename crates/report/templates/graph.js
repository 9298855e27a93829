// The block as a graph: kernels are coloured groups of operations.

const PILL = { height: 22, gap: 8, row: 16 };
const BOX = { pad: 12, head: 40, lane: 16, gapX: 34, gapY: 44 };

/** The widest that the head of a kernel makes its box. */
const HEAD = 240;

const pillWidth = (label) => Math.max(26, textWidth(label, 11.5, 650) + 16);
/** What is said of a kernel below its name, as much of it as there is room for, but not less than two. */
const aboutOf = (kernel) => [time(kernel.cost.total_us), kernel.template, bytes(kernel.cost.bytes), kernel.limited_by];
const headOf = (kernel) => joined(aboutOf(kernel).slice(0, 2));
const joined = (pieces) => pieces.join(" \u00b7 ");

function roomFor(pieces, width, size) {
  let count = pieces.length;
  while (count > 2 && textWidth(joined(pieces.slice(0, count)), size) > width) count -= 1;
  return shorten(joined(pieces.slice(0, count)), width, size);
}

/** Ranks along the longest path, for nodes in an order in which edges go forwards. */
function ranks(nodes, before) {
  const rank = new Map();
  for (const node of nodes) {
    rank.set(node, Math.max(-1, ...before(node).filter((b) => rank.has(b)).map((b) => rank.get(b))) + 1);
  }
  return rank;
}

/** Lines of pills for operations: by rank, at most so wide, each ordered by where its operands are. */
function lines(part, ops, into) {
  const set = new Set(ops);
  const rank = ranks(ops, (op) => (into.get(op) || []).filter((from) => set.has(from)));
  const rows = [];
  for (const op of ops) (rows[rank.get(op)] ||= []).push(op);
  const at = new Map();
  const out = [];
  for (const row of rows) {
    const middle = (op) => {
      const known = (into.get(op) || []).filter((from) => at.has(from)).map((from) => at.get(from));
      return known.length ? known.reduce((a, b) => a + b, 0) / known.length : Infinity;
    };
    const sorted = row.map((op) => [middle(op), op]).sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] - b[0]));
    let line = [];
    let width = 0;
    for (const [, op] of sorted) {
      const own = pillWidth(part.ops[op].label);
      if (line.length && width + own > 420) {
        out.push(line);
        line = [];
        width = 0;
      }
      line.push(op);
      width += own + PILL.gap;
    }
    out.push(line);
    let x = 0;
    const whole = sorted.reduce((sum, [, op]) => sum + pillWidth(part.ops[op].label) + PILL.gap, 0);
    for (const [, op] of sorted) {
      at.set(op, x - whole / 2);
      x += pillWidth(part.ops[op].label) + PILL.gap;
    }
  }
  return out;
}

/** Sizes and places of everything in a kernel, from its own corner. */
function boxOf(part, kernel, into) {
  const seen = new Set();
  const pills = new Map();
  const frames = [];
  const several = kernel.phases.some((lanes) => lanes.length > 1) || kernel.phases.length > 1;
  const head = Math.min(HEAD, Math.max(textWidth(kernel.name, 13, 650), textWidth(headOf(kernel), 11)) + 2);
  let y = BOX.head;
  let width = head + 2 * BOX.pad;
  for (const [p, lanes] of kernel.phases.entries()) {
    let x = BOX.pad;
    let height = 0;
    for (const lane of lanes) {
      const ops = lane.ops.filter((op) => !seen.has(op));
      ops.forEach((op) => seen.add(op));
      const rows = lines(part, ops, into);
      const own = Math.max(
        several ? textWidth(`phase 1, ${lane.template}`, 10) : head,
        ...rows.map((row) => row.reduce((sum, op) => sum + pillWidth(part.ops[op].label) + PILL.gap, -PILL.gap)),
      );
      const inner = several ? BOX.lane : 0;
      let top = y + inner + (several ? 6 : 0);
      for (const row of rows) {
        const all = row.reduce((sum, op) => sum + pillWidth(part.ops[op].label) + PILL.gap, -PILL.gap);
        let left = x + (several ? 6 : 0) + (own - all) / 2;
        for (const op of row) {
          const w = pillWidth(part.ops[op].label);
          pills.set(op, { x: left, y: top, w, h: PILL.height });
          left += w + PILL.gap;
        }
        top += PILL.height + PILL.row;
      }
      const h = top - PILL.row - y + (several ? 6 : 0);
      if (several) {
        const phase = kernel.phases.length > 1 ? `phase ${p + 1}, ` : "";
        frames.push({ x, y, w: own + 12, h, name: `${phase}${lane.template}`, template: lane.template });
      }
      height = Math.max(height, h);
      x += own + (several ? 12 + 8 : 0);
    }
    width = Math.max(width, x - (several ? 8 : 0) + BOX.pad);
    y += height + 10;
  }
  return { pills, frames, w: width, h: y - 10 + BOX.pad };
}

/** Places everything of a part, for a picture that is `aspect` times as wide as high. */
function layout(part, aspect) {
  const into = new Map();
  for (const edge of part.edges) {
    if (edge.from === null || edge.to === null) continue;
    if (!into.has(edge.to)) into.set(edge.to, []);
    into.get(edge.to).push(edge.from);
  }
  const boxes = part.kernels.map((kernel) => boxOf(part, kernel, into));
  const befores = part.kernels.map(() => new Set());
  for (const edge of part.edges) {
    if (edge.from === null || edge.to === null) continue;
    const [a, b] = [part.ops[edge.from].kernel, part.ops[edge.to].kernel];
    if (a !== b) befores[b].add(a);
  }
  const order = part.kernels.map((_, k) => k);
  const rank = ranks(order, (k) => [...befores[k]]);
  const rows = [];
  for (const k of order) (rows[rank.get(k)] ||= []).push(k);

  const values = (way, other) => [...new Set(part.edges.filter((e) => e[way] === null && e[other] !== null).map((e) => e.value))];
  const lines = [
    { io: values("from", "to"), way: "in" },
    ...rows.map((of) => ({ kernels: of })),
    { io: values("to", "from"), way: "out" },
  ].filter((line) => line.kernels || line.io.length);
  for (const line of lines) {
    line.w = line.kernels
      ? line.kernels.reduce((sum, k) => sum + boxes[k].w + BOX.gapX, -BOX.gapX)
      : line.io.reduce((sum, value) => sum + pillWidth(value) + 14, -14);
    line.h = line.kernels ? Math.max(...line.kernels.map((k) => boxes[k].h)) : PILL.height;
  }
  const columns = best(lines, aspect);
  const io = [];
  let left = 0;
  let bottom = 0;
  for (const [c, column] of columns.entries()) {
    const width = Math.max(...column.map((line) => line.w));
    const centre = left + width / 2;
    let y = 0;
    for (const line of column) {
      if (line.kernels) place(line, boxes, befores, centre, y, left, left + width);
      else placeValues(line, io, centre, y);
      y += line.h + BOX.gapY;
    }
    for (const line of column) for (const k of line.kernels || []) boxes[k].column = c;
    for (const line of column) if (line.io) io.filter((node) => node.way === line.way).forEach((node) => { node.column = c; });
    bottom = Math.max(bottom, y - BOX.gapY);
    left += width + COLUMN_GAP;
  }
  return { boxes, io, view: { x: -24, y: -20, w: left - COLUMN_GAP + 48, h: bottom + 40 } };
}

const COLUMN_GAP = 80;

/** Cuts lines into so many columns of about the same height that they are shown largest. */
function best(lines, aspect) {
  const whole = lines.reduce((sum, line) => sum + line.h + BOX.gapY, 0);
  let found = null;
  for (let n = 1; n <= Math.min(8, lines.length); n += 1) {
    const columns = [[]];
    let height = 0;
    for (const line of lines) {
      const full = height + line.h / 2 > whole / n && columns.length < n;
      if (full && columns.at(-1).length) {
        columns.push([]);
        height = 0;
      }
      columns.at(-1).push(line);
      height += line.h + BOX.gapY;
    }
    const w = columns.reduce((sum, column) => sum + Math.max(...column.map((line) => line.w)) + COLUMN_GAP, 0);
    const h = Math.max(...columns.map((column) => column.reduce((sum, line) => sum + line.h + BOX.gapY, 0)));
    const size = Math.min(aspect / w, 1 / h);
    if (!found || size > found.size * 1.02) found = { size, columns };
  }
  return found ? found.columns : [];
}

/** Places a line of kernels, each near what it reads. */
function place(line, boxes, befores, centre, y, least, most) {
  const middle = (k) => {
    const known = [...befores[k]].filter((b) => boxes[b].x !== undefined).map((b) => boxes[b].x + boxes[b].w / 2);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : centre;
  };
  const sorted = line.kernels.map((k) => [middle(k), k]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, k]) => k);
  const wanted = sorted.length === 1 ? middle(sorted[0]) : centre;
  let x = Math.max(least, Math.min(most - line.w, wanted - line.w / 2));
  for (const k of sorted) {
    boxes[k].x = x;
    boxes[k].y = y;
    x += boxes[k].w + BOX.gapX;
  }
}

function placeValues(line, io, centre, y) {
  let x = centre - line.w / 2;
  for (const value of line.io) {
    const w = pillWidth(value);
    io.push({ value, way: line.way, x, y, w, h: PILL.height });
    x += w + 14;
  }
}

/** A line from the foot of a pill to the head of another, below it. */
function down(a, b) {
  const [x1, y1, x2, y2] = [a.x + a.w / 2, a.y + a.h, b.x + b.w / 2, b.y];
  const bend = Math.max(10, Math.min(90, Math.abs(y2 - y1) / 2));
  return `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`;
}

/** A line from the side of a pill to that of another, in a later column. */
function over(a, b) {
  const [x1, y1, x2, y2] = [a.x + a.w, a.y + a.h / 2, b.x, b.y + b.h / 2];
  const bend = Math.max(30, Math.min(160, Math.abs(x2 - x1) / 2));
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}

/** How much larger than its text's own size a whole graph is shown. */
const LARGEST = 1.25;

/** A panel with the graph of a plan's part. */
class Graph {
  constructor(plan, aspect) {
    this.plan = plan;
    this.part = partOf(plan);
    this.svg = shape("svg", { role: "group", "aria-label": `kernels of ${this.part.title}`, tabindex: "-1" });
    this.arrange(aspect);
    const label = data.plans.length > 1 ? `${data.plans[plan].label}: ${this.part.title}` : this.part.title;
    const sum = this.part.kernels.reduce((us, kernel) => us + kernel.cost.total_us, 0);
    const used = new Set(this.part.kernels.flatMap((k) => k.phases.flat().map((lane) => lane.template)));
    const zoom = (name, text, action) => el("button", { type: "button", title: name, "aria-label": name, onclick: action }, text);
    this.panel = el("section", { class: "graph" },
      el("div", { class: "head" },
        el("h2", {}, label),
        el("span", { class: "soft small" },
          `${plural(this.part.ops.length, "operation")} in ${plural(this.part.kernels.length, "launch")}, ${time(sum)}`
          + (this.part.times > 1 ? `; ${this.part.times} equal layers in a row` : "")),
        el("span", { class: "fill" }),
        zoom("zoom out (-)", "\u2212", () => this.zoom(1.3)),
        zoom("whole (0)", "\u25a1", () => this.whole()),
        zoom("zoom in (+)", "+", () => this.zoom(1 / 1.3))),
      this.svg,
      el("div", { class: "legend" },
        Object.entries(TEMPLATES).filter(([name]) => used.has(name)).map(([name, text]) =>
          el("span", {}, el("i", { style: `--c: ${hue(name)}` }), `${name}: ${text}`)),
        el("span", {}, "filled: the kernel is built around it; thick rim: its result goes to memory")));
  }

  /** Draws everything anew for a picture that is `aspect` times as wide as high. */
  arrange(aspect) {
    this.layout = layout(this.part, aspect);
    this.kernels = [];
    this.ops = [];
    this.edges = [];
    this.svg.replaceChildren();
    this.draw();
    this.whole();
  }

  draw() {
    const { part, layout: { boxes, io } } = this;
    // Edges run over the boxes and under what is written on them.
    const backs = shape("g");
    const edges = shape("g");
    const groups = shape("g");
    const pills = shape("g");
    this.svg.append(backs, edges, groups, pills);
    for (const [k, kernel] of part.kernels.entries()) {
      const box = boxes[k];
      const about = joined(aboutOf(kernel));
      const room = box.w - 2 * BOX.pad;
      const group = shape("g", {
        class: "k", style: colour(kernel), transform: `translate(${box.x} ${box.y})`, tabindex: "0", role: "button",
        "data-kernel": kernel.name,
        "aria-label": `kernel ${kernel.name}, ${about}`,
        onclick: () => { if (!this.dragged) select(this.plan, k); },
        onkeydown: (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          event.stopPropagation();
          select(this.plan, k, true);
        },
        onfocus: () => this.show(box),
      },
      shape("rect", { class: "box", width: box.w, height: box.h, rx: 9 }),
      shape("text", { class: "name", x: BOX.pad, y: 18 }, shorten(kernel.name, room, 13, 650)),
      shape("text", { class: "about", x: BOX.pad, y: 32 }, roomFor(aboutOf(kernel), room, 11)),
      box.frames.map((frame) => shape("g", { style: `--c: ${hue(frame.template)}` },
        shape("rect", { class: "lane", x: frame.x, y: frame.y, width: frame.w, height: frame.h, rx: 6 }),
        shape("text", { class: "lanename", x: frame.x + 7, y: frame.y + 12 }, frame.name))));
      backs.append(shape("rect", { class: "back", style: colour(kernel), x: box.x, y: box.y, width: box.w, height: box.h, rx: 9 }));
      tip(group, () => [el("b", {}, kernel.name), el("div", { class: "dim" }, about), kernel.saved && el("div", { class: "dim" }, kernel.saved)]);
      groups.append(group);
      this.kernels[k] = group;
      for (const [op, pill] of box.pills) this.pill(pills, kernel, box, op, pill);
    }
    for (const node of io) {
      const text = node.way === "in" ? "from before" : "for what follows";
      const group = shape("g", { class: "io", transform: `translate(${node.x} ${node.y})` },
        shape("rect", { width: node.w, height: node.h, rx: 4 }),
        shape("text", { x: node.w / 2, y: node.h / 2 }, node.value));
      tip(group, () => [node.value, el("div", { class: "dim" }, text)]);
      pills.append(group);
    }
    this.connect(edges);
  }

  pill(into, kernel, box, op, pill) {
    const { part } = this;
    const of = part.ops[op];
    const classes = ["op", of.role, of.stored ? "stored" : ""].join(" ");
    const group = shape("g", {
      class: classes, style: colour(kernel), transform: `translate(${box.x + pill.x} ${box.y + pill.y})`,
      "data-op": of.name,
      onclick: () => { if (!this.dragged) select(this.plan, of.kernel); },
      onpointerenter: () => this.light(op),
      onpointerleave: () => this.light(null),
    },
    shape("rect", { width: pill.w, height: pill.h, rx: 11 }),
    shape("text", { x: pill.w / 2, y: pill.h / 2 + 0.5 }, of.label));
    tip(group, () => [
      el("b", {}, of.name),
      el("code", {}, of.equation),
      el("div", { class: "dim" }, [of.place, bytes(of.bytes), of.stored ? "goes to memory" : "stays on the chip"].filter(Boolean).join(" \u00b7 ")),
    ]);
    into.append(group);
    this.ops[op] = group;
  }

  connect(into) {
    const { part, layout: { boxes, io } } = this;
    const place = (op) => {
      const box = boxes[part.ops[op].kernel];
      const pill = box.pills.get(op);
      return pill && { x: box.x + pill.x, y: box.y + pill.y, w: pill.w, h: pill.h, column: box.column };
    };
    const end = (op, value, way) => (op === null ? io.find((node) => node.value === value && node.way === way) : place(op));
    for (const edge of part.edges) {
      const a = end(edge.from, edge.value, "in");
      const b = end(edge.to, edge.value, "out");
      if (!a || !b) continue;
      const across = edge.from === null || edge.to === null || part.ops[edge.from].kernel !== part.ops[edge.to].kernel;
      const path = shape("path", { class: across ? "edge memory" : "edge", d: a.column === b.column ? down(a, b) : over(a, b) });
      into.append(path);
      this.edges.push([edge, path]);
    }
  }

  /** Lights the values that an operation reads and makes. */
  light(op) {
    this.svg.classList.toggle("hovering", op !== null);
    for (const [edge, path] of this.edges) path.classList.toggle("lit", op !== null && (edge.from === op || edge.to === op));
  }

  moved() {
    const { x, y, w, h } = this.view;
    this.svg.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
  }

  zoom(factor, at) {
    const view = this.view;
    const [cx, cy] = at || [view.x + view.w / 2, view.y + view.h / 2];
    const w = Math.max(160, Math.min(4 * this.layout.view.w + 1000, view.w * factor));
    const real = w / view.w;
    this.view = { x: cx - (cx - view.x) * real, y: cy - (cy - view.y) * real, w, h: view.h * real };
    this.moved();
  }

  whole() {
    const { x, y, w, h } = this.layout.view;
    // A small graph is not blown up to fill its panel.
    const scale = Math.min(this.svg.clientWidth / w, this.svg.clientHeight / h);
    const more = Math.max(1, scale / LARGEST) - 1;
    this.view = { x: x - (w * more) / 2, y: y - (h * more) / 2, w: w * (1 + more), h: h * (1 + more) };
    this.moved();
  }

  /** Moves the view, if need be, so that a box is within it. */
  show(box) {
    const view = this.view;
    const inside = box.x >= view.x && box.y >= view.y && box.x + box.w <= view.x + view.w && box.y + box.h <= view.y + view.h;
    if (inside) return;
    view.x = box.x + box.w / 2 - view.w / 2;
    view.y = box.y + box.h / 2 - view.h / 2;
    this.moved();
  }

  /** A place on the screen in the coordinates of the graph. */
  at(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    return [point.x, point.y];
  }

  listen() {
    this.whole();
    let held = null;
    this.svg.addEventListener("wheel", (event) => {
      // A page that scrolls past must not stop here: zooming wants the graph chosen, or a key held.
      if (!event.ctrlKey && !event.metaKey && !this.svg.contains(document.activeElement)) return;
      event.preventDefault();
      this.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 300), this.at(event));
    }, { passive: false });
    this.svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      held = { from: this.at(event), x: event.clientX, y: event.clientY };
      this.dragged = false;
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (!held) return;
      if (!this.dragged && Math.hypot(event.clientX - held.x, event.clientY - held.y) > 4) {
        this.dragged = true;
        this.svg.classList.add("held");
        this.svg.setPointerCapture(event.pointerId);
      }
      if (!this.dragged) return;
      const [x, y] = this.at(event);
      this.view.x += held.from[0] - x;
      this.view.y += held.from[1] - y;
      this.moved();
    });
    const release = () => {
      held = null;
      this.svg.classList.remove("held");
      // The click that ends a drag comes after this, and is none.
      setTimeout(() => { this.dragged = false; }, 0);
    };
    this.svg.addEventListener("pointerup", release);
    this.svg.addEventListener("pointercancel", release);
  }

  /** Marks what a text is found in; how many operations and kernels. */
  search(text) {
    const { part } = this;
    let found = 0;
    let first = null;
    const within = (...texts) => text !== "" && texts.some((t) => t.toLowerCase().includes(text));
    const values = new Map();
    for (const edge of part.edges) if (edge.from !== null) values.set(edge.from, `${values.get(edge.from) || ""} ${edge.value}`);
    for (const [op, group] of this.ops.entries()) {
      const match = within(part.ops[op].name, values.get(op) || "");
      group?.classList.toggle("match", match);
      if (match) {
        found += 1;
        first ??= part.ops[op].kernel;
      }
    }
    for (const [k, group] of this.kernels.entries()) {
      const match = within(part.kernels[k].name);
      group.classList.toggle("match", match);
      if (match) {
        found += 1;
        first ??= k;
      }
    }
    this.svg.classList.toggle("searching", text !== "");
    return { found, first };
  }
}
