// What is shown, and what happens on a click or a key.

let graphs = [];

function showHead() {
  const plan = data.plans[0];
  const regime = regimeOf(0);
  byId("title").textContent = data.model;
  byId("subtitle").textContent = `${data.source} on ${data.device.title} (${data.device.arch}), ${plan.storage} storage, B=${regime.shape.batch} T=${regime.shape.time}, `
    + `plan ${plan.label}${data.layers > 0 ? `, ${plural(data.layers, "layer")}` : ""}: ${regime.claim}`;
  byId("regimes").replaceChildren(...plan.regimes.map((of, r) =>
    el("button", { type: "button", role: "tab", "aria-selected": String(r === state.regime), onclick: () => choose(r, null) },
      `${of.name} B=${of.shape.batch} T=${of.shape.time}`)));
}

/** Launches, bytes and time of each plan. */
function showSummary() {
  const regime = regimeOf(0);
  const measured = [regime.unfused, ...data.plans.map((_, p) => regimeOf(p).chosen)].some((sums) => sums.measured_us !== null);
  const rows = [["one kernel per operation", regime.unfused], ...data.plans.map((plan, p) => [`plan ${plan.label}`, regimeOf(p).chosen])];
  const base = regime.unfused;
  const gain = (before, after) => {
    if (!(before > 0 && after > 0)) return "-";
    const [less, more] = [before / after, after / before];
    if (less > 1.005) return el("span", { class: "gain" }, `${less.toFixed(2)} x less`);
    return el("span", { class: "soft" }, more > 1.005 ? `${more.toFixed(2)} x more` : "the same");
  };
  const change = (...of) => el("td", { class: "left" }, of);
  const head = ["", "launches", "", "memory traffic", "", "predicted time", "", ...(measured ? ["measured time", ""] : [])];
  const body = rows.map(([name, sums], r) => el("tr", {},
    el("td", {}, name),
    el("td", {}, sums.launches), change(r ? gain(base.launches, sums.launches) : ""),
    el("td", {}, bytes(sums.bytes)), change(r ? gain(base.bytes, sums.bytes) : ""),
    el("td", {}, time(sums.predicted_us)), change(r ? gain(base.predicted_us, sums.predicted_us) : ""),
    measured && [
      el("td", {}, sums.measured_us === null ? "-" : time(sums.measured_us)),
      change(r && sums.measured_us !== null && base.measured_us !== null ? gain(base.measured_us, sums.measured_us) : ""),
    ]));
  const forms = regime.forms.length ? `Forms taken: ${regime.forms.join(", ")}.` : "The model is computed as it is written.";
  byId("summary").replaceChildren(
    el("h2", {}, "Before and after"),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", {}, name)))), el("tbody", {}, body))),
    el("p", { class: "soft small" }, forms));
}

/** The whole run as a strip: equal layers once. */
function showRun() {
  const parts = regimeOf(0).parts;
  const sum = (part) => part.times * part.kernels.reduce((us, kernel) => us + kernel.cost.total_us, 0);
  const whole = parts.reduce((us, part) => us + sum(part), 0);
  byId("run").replaceChildren(
    el("h2", {}, "The run"),
    el("div", { class: "strip" }, parts.map((part, p) => {
      const button = el("button", {
        type: "button", "aria-pressed": String(p === state.part), style: `flex: ${Math.max(sum(part), whole / 60)} 1 0`,
        onclick: () => choose(state.regime, p),
      }, el("b", {}, `${part.title}${part.times > 1 ? ` (${part.times} x)` : ""}`), el("span", { class: "soft" }, time(sum(part))));
      tip(button, () => [el("b", {}, part.title), el("div", {}, `${plural(part.kernels.length * part.times, "launch")}, ${time(sum(part))}`)]);
      return button;
    })));
}

function showGraphs() {
  // What the panel is, with nothing beside it.
  const aspect = Math.max(0.5, (innerWidth - 60) / data.plans.length / Math.min(0.72 * innerHeight, 860));
  graphs = data.plans.map((_, p) => new Graph(p, aspect));
  byId("graphs").classList.toggle("two", graphs.length > 1);
  byId("graphs").replaceChildren(...graphs.map((graph) => graph.panel));
  graphs.forEach((graph) => graph.listen());
  search();
}

/** Marks the kernel that is selected. */
function mark() {
  graphs.forEach((graph, p) => graph.kernels.forEach((group, k) => group.classList.toggle("selected", isSelected(p, k))));
}

function showSelection() {
  mark();
  showDetail();
  showTimeline();
  showRoofline();
  showMemory();
  showKernels();
}

/** Selects a kernel of a plan, or none. */
function select(plan, kernel, intoDetail) {
  const opens = (state.kernel === null) !== (kernel === null);
  state.plan = plan;
  state.kernel = kernel;
  byId("tip").hidden = true;
  showSelection();
  if (opens) rearrange();
  if (kernel !== null && intoDetail) byId("detail").focus({ preventScroll: true });
}

/** Shows another length of run, or another part of it. */
function choose(regime, part) {
  state.regime = regime;
  state.part = part === null ? regimeOf(0).interior : part;
  state.plan = 0;
  state.kernel = null;
  showHead();
  showSummary();
  showRun();
  showGraphs();
  showSelection();
}

/** Arranges the graphs anew for the room that they have; what has the focus keeps it. */
function rearrange() {
  for (const graph of graphs) {
    const focused = graph.kernels.indexOf(document.activeElement);
    graph.arrange(Math.max(0.5, graph.svg.clientWidth / Math.max(1, graph.svg.clientHeight)));
    if (focused >= 0) graph.kernels[focused].focus({ preventScroll: true });
  }
  search();
  mark();
}

function search(jump) {
  const text = byId("search").value.trim().toLowerCase();
  const results = graphs.map((graph) => graph.search(text));
  const found = results.reduce((sum, result) => sum + result.found, 0);
  byId("found").textContent = text === "" ? "" : `${found} found`;
  const at = results.findIndex((result) => result.first !== null && result.first !== undefined);
  if (jump && at >= 0) {
    select(at, results[at].first);
    graphs[at].kernels[results[at].first].focus();
  }
}

/** Selects the next kernel in launch order, or the one before. */
function step(by) {
  const kernels = partOf(state.plan).kernels;
  const next = state.kernel === null ? (by > 0 ? 0 : kernels.length - 1) : (state.kernel + by + kernels.length) % kernels.length;
  select(state.plan, next);
  graphs[state.plan].kernels[next].focus({ preventScroll: true });
}

function showHelp() {
  const keys = [
    ["/", "find"], ["j k, or arrows", "next kernel, the one before"], ["Enter", "what is known of the kernel"], ["s", "its source"],
    ["Esc", "close it, or clear what is sought"], ["[ ]", "the part of the run before, the next"], ["1 2 ...", "length of run"],
    ["+ \u2212 0", "zoom in, out, whole"], ["wheel", "zoom, in a graph that was clicked, or with Ctrl"], ["drag", "move"], ["p", "the other plan"], ["t", "light or dark"],
  ];
  const help = byId("help");
  help.replaceChildren(el("h2", {}, "Keys"),
    el("table", {}, el("tbody", {}, keys.map(([key, text]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", { class: "left" }, text))))),
    el("p", {}, el("button", { type: "button", onclick: () => help.close() }, "close")));
  if (!help.open) help.showModal();
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.target instanceof HTMLInputElement) {
    if (event.key === "Enter") search(true);
    if (event.key === "Escape") {
      event.target.value = "";
      search();
      event.target.blur();
    }
    return;
  }
  const zoom = (factor) => graphs.forEach((graph) => graph.zoom(factor));
  const parts = regimeOf(0).parts.length;
  const actions = {
    "/": () => byId("search").focus(),
    "?": showHelp,
    t: () => byId("theme").click(),
    j: () => step(1), ArrowRight: () => step(1),
    k: () => step(-1), ArrowLeft: () => step(-1),
    s: () => byId("source")?.scrollIntoView({ block: "start" }),
    p: () => select((state.plan + 1) % data.plans.length, null),
    Enter: () => { if (state.kernel !== null) byId("detail").focus(); },
    Escape: () => select(state.plan, null),
    "+": () => zoom(1 / 1.3), "=": () => zoom(1 / 1.3), "-": () => zoom(1.3), 0: () => graphs.forEach((graph) => graph.whole()),
    "[": () => choose(state.regime, (state.part + parts - 1) % parts),
    "]": () => choose(state.regime, (state.part + 1) % parts),
  };
  const own = event.target.closest?.("button, a, pre");
  if (own && ["Enter", "ArrowRight", "ArrowLeft"].includes(event.key)) return;
  const number = Number.parseInt(event.key, 10);
  const action = actions[event.key] || (number >= 1 && number <= data.plans[0].regimes.length ? () => choose(number - 1, null) : null);
  if (!action) return;
  event.preventDefault();
  action();
}

const before = matchMedia("(prefers-color-scheme: dark)");
setTheme(before.matches);
before.addEventListener("change", () => setTheme(before.matches));
// Paper is light.
let onPaper = null;
addEventListener("beforeprint", () => {
  onPaper = document.documentElement.dataset.theme;
  graphs.forEach((graph) => graph.whole());
  setTheme(false);
});
addEventListener("afterprint", () => setTheme(onPaper === "dark"));
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
byId("keys").addEventListener("click", showHelp);
byId("search").addEventListener("input", () => search());
addEventListener("keydown", onKey);
byId("changes").replaceChildren(el("h2", {}, "From the first plan to the second"), ...data.changes.map((text) => el("pre", { class: "words" }, text)));
byId("changes").hidden = data.changes.length === 0;
byId("about").textContent = `fusec ${data.fusec}. Times are predictions of the cost model unless they are called measured.`;
const prefill = data.plans[0].regimes.findIndex((regime) => regime.name === "prefill");
choose(Math.max(prefill, 0), null);
