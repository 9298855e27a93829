// The kernel that is selected: what it costs, how it is run, what is in it, what is not, its source.

const WORDS = new Set(("alignas asm auto bool break case char class const constexpr continue default do double else enum "
  + "extern float for goto if inline int long namespace nullptr operator restrict return short signed sizeof static struct "
  + "switch template this typename union unsigned using void volatile while __device__ __global__ __shared__ __restrict__ "
  + "__launch_bounds__ __forceinline__ __syncthreads __syncwarp").split(" "));
const TOKENS = /(\/\/[^\n]*|\/\*[\s\S]*?\*\/)|("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(\b\d[\w.]*(?:[eE][+-]?\d+)?\b|\b0x[\da-fA-F]+\b)|(#\s*\w+|\b[A-Za-z_]\w*\b)/g;

/** Source text in lines, with comments, words and numbers coloured. */
function source(text) {
  const pre = el("pre", { class: "source", tabindex: "0", "aria-label": "source" });
  let line = el("span", { class: "l" });
  const put = (piece, kind) => {
    const parts = piece.split("\n");
    for (const [i, part] of parts.entries()) {
      if (i > 0) {
        line.append("\n");
        pre.append(line);
        line = el("span", { class: "l" });
      }
      if (part !== "") line.append(kind ? el("span", { class: kind }, part) : part);
    }
  };
  let last = 0;
  for (const match of text.matchAll(TOKENS)) {
    put(text.slice(last, match.index));
    const [piece, comment, string, number] = match;
    const word = WORDS.has(piece) || piece.startsWith("#");
    put(piece, comment ? "c" : string ? "s" : number ? "n" : word ? "w" : null);
    last = match.index + piece.length;
  }
  put(text.slice(last));
  if (line.childNodes.length) pre.append(line);
  return pre;
}

/** The terms of a predicted time as bars. */
function terms(kernel) {
  const { cost } = kernel;
  const shown = TERMS.map(([key, name]) => [name, cost[key]]).filter(([, us]) => us > 0);
  const most = Math.max(...shown.map(([, us]) => us), Number.MIN_VALUE);
  return shown.map(([name, us]) =>
    el("div", { class: name === kernel.limited_by ? "term most" : "term" },
      el("b", {}, name),
      el("div", { class: "track" }, el("i", { style: `width: ${(100 * us) / most}%` })),
      el("span", {}, time(us))));
}

/** What a kernel was compiled to, or why it was not. */
function compiled(plan, code) {
  const used = code.resources;
  if (!used) {
    const why = plan.not_compiled || "this kernel is not among the cubins that are there";
    return [["compiled", `no: ${why}`]];
  }
  const spills = used.spills
    ? used.spills.store_bytes + used.spills.load_bytes === 0
      ? "none"
      : `${used.spills.store_bytes} B stored, ${used.spills.load_bytes} B loaded per thread`
    : "not recorded";
  const facts = [
    ["registers", `${used.registers} per thread`],
    ["spills", spills],
    ["shared memory", `${bytes(used.shared_bytes)} static + ${bytes(code.shared_bytes)} dynamic per block`],
    ["stack", `${used.local_bytes} B per thread`],
  ];
  if (code.occupancy) {
    const { blocks, part, limited_by: limit } = code.occupancy;
    facts.push(["occupancy", `${plural(blocks, "block")} on a multiprocessor, ${percent(part)} of its threads; bound by ${limit}`]);
  }
  return facts;
}

const ROLES = {
  anchor: "anchor: the kernel is built around it",
  prologue: "prologue: on the way in, from memory to the anchor",
  epilogue: "epilogue: on the way out, before anything is stored",
  row: "row by row, in registers and shared memory",
};

function neighbour(plan, of) {
  const name = of.kernel === null
    ? el("b", {}, of.name)
    : el("button", { class: "link", type: "button", onclick: () => select(plan, of.kernel) }, of.name);
  const shown = of.values.slice(0, 6).join(", ") + (of.values.length > 6 ? ` and ${of.values.length - 6} more` : "");
  return el("li", { class: `neighbour ${of.verdict}` },
    el("div", {}, of.before ? "from " : "to ", name, el("span", { class: "soft" }, ` \u00b7 ${shown} (${bytes(of.bytes)})`)),
    el("div", { class: "soft" }, of.why));
}

function showDetail() {
  const aside = byId("detail");
  const open = state.kernel !== null;
  byId("workspace").classList.toggle("open", open);
  if (!open) {
    aside.replaceChildren();
    return;
  }
  const plan = data.plans[state.plan];
  const part = partOf(state.plan);
  const kernel = part.kernels[state.kernel];
  const code = plan.code[kernel.code];
  const { cost } = kernel;
  const lanes = kernel.phases.flat();
  const facts = [
    ["predicted", `${time(cost.total_us)}, limited by ${kernel.limited_by}`],
    kernel.measured_us !== null && ["measured", `${time(kernel.measured_us)} (predicted over measured ${(cost.total_us / kernel.measured_us).toFixed(2)})`],
    ["traffic", `${bytes(cost.bytes)} to and from memory, ${bytes(cost.l2_bytes)} found in L2`],
    ["arithmetic", `${count(flops(cost))} flops (${percent(cost.tensor_flops / Math.max(flops(cost), 1))} on tensor cores), ${count(cost.special)} special functions, ${count(cost.serial_steps)} serial steps`],
    ["intensity", cost.bytes > 0 ? `${(flops(cost) / cost.bytes).toFixed(1)} flops a byte` : "no traffic"],
    ["launch", kernel.launch],
    ["schedule", lanes.length === 1 ? lanes[0].schedule : el("div", {}, lanes.map((lane) => el("div", {}, `${lane.template}: ${lane.schedule}`)))],
    kernel.forms.length > 0 && ["forms", kernel.forms.join(", ")],
    ["stores", [...new Set(lanes.flatMap((lane) => lane.stores))].join(", ") || "nothing but states"],
    ...compiled(plan, code),
  ].filter(Boolean);
  const ops = part.ops.filter((op) => op.kernel === state.kernel);
  aside.style.cssText = colour(kernel);
  aside.replaceChildren();
  fill(aside, {}, [
    el("h2", {},
      el("span", {}, kernel.name),
      el("button", { type: "button", title: "close (Esc)", "aria-label": "close", onclick: () => select(state.plan, null) }, "\u00d7")),
    el("div", {}, el("span", { class: "tag" }, kernel.template), " ",
      el("span", { class: "soft small" }, `${plural(ops.length, "operation")}${data.plans.length > 1 ? ` \u00b7 plan ${plan.label}` : ""}`)),
    kernel.saved && el("p", { class: "small" }, kernel.saved, "."),
    el("dl", { class: "facts" }, facts.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])),
    el("h3", {}, "Predicted time"),
    terms(kernel),
    kernel.others.length > 0 && [el("h3", {}, "In other forms"), el("ul", { class: "plain small" }, kernel.others.map((text) => el("li", {}, text)))],
    el("h3", {}, "What is in it"),
    el("table", { class: "ops" }, el("tbody", {}, ops.map((op) => el("tr", {},
      el("td", { title: ROLES[op.role] }, el("b", {}, op.label), el("div", { class: "faint" }, op.role)),
      el("td", {}, el("code", {}, op.equation), el("div", { class: "faint" }, op.place || "made by a form")))))),
    el("h3", {}, "What is next to it, and why it is not in it"),
    kernel.neighbours.length > 0
      ? el("ul", { class: "plain" }, kernel.neighbours.map((of) => neighbour(state.plan, of)))
      : el("p", { class: "soft" }, "Nothing."),
    el("h3", { id: "source" }, `Source: kernels/${code.name}.cu`),
    code.image !== code.name && el("p", { class: "soft small" }, `Compiled as ${code.image}, from which it differs in names only.`),
    source(code.source),
  ]);
  aside.scrollTop = 0;
}
