// Roofline, timeline, memory: pictures of the part that is shown.

const CHART = { w: 720, h: 320, left: 64, right: 16, top: 14, bottom: 34 };

const isSelected = (plan, k) => state.plan === plan && state.kernel === k;
const kernelTip = (kernel) => () => [
  el("b", {}, kernel.name),
  el("div", {}, `${time(kernel.cost.total_us)} predicted, limited by ${kernel.limited_by}`),
  kernel.measured_us !== null && el("div", {}, `${time(kernel.measured_us)} measured`),
  el("div", { class: "dim" }, `${bytes(kernel.cost.bytes)}, ${count(flops(kernel.cost))} flops`),
];

/** What bounds the kernels: arithmetic against intensity, both in powers of ten. */
function showRoofline() {
  const { w, h, left, right, top, bottom } = CHART;
  const device = data.device;
  const part = partOf(state.plan);
  const us = (kernel) => kernel.measured_us ?? kernel.cost.total_us;
  const points = part.kernels.map((kernel, k) => {
    const work = flops(kernel.cost) + kernel.cost.special;
    return { kernel, k, work, x: work / Math.max(kernel.cost.bytes, 1), y: work / (us(kernel) * 1e-6) };
  }).filter((point) => point.work > 0);
  const roofs = Math.max(device.tensor_tflops, device.fp32_tflops) * 1e12;
  const lowX = Math.min(0.1, ...points.map((p) => p.x));
  const highX = Math.max(1e3, ...points.map((p) => p.x));
  const xs = [Math.floor(Math.log10(lowX)), Math.ceil(Math.log10(Math.min(highX, 1e7)))];
  const ys = [Math.floor(Math.log10(Math.min(1e10, ...points.map((p) => p.y)))), Math.ceil(Math.log10(roofs) + 0.01)];
  const x = (value) => left + ((Math.min(Math.log10(value), xs[1]) - xs[0]) / (xs[1] - xs[0])) * (w - left - right);
  const y = (value) => h - bottom - ((Math.log10(value) - ys[0]) / (ys[1] - ys[0])) * (h - top - bottom);
  const svg = shape("svg", { class: "chart", viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": "roofline" });
  for (let e = xs[0]; e <= xs[1]; e += 1) {
    svg.append(shape("line", { class: "grid", x1: x(10 ** e), x2: x(10 ** e), y1: top, y2: h - bottom }),
      shape("text", { x: x(10 ** e), y: h - bottom + 15, "text-anchor": "middle" }, e < 0 ? `${10 ** e}` : count(10 ** e)));
  }
  for (let e = ys[0]; e <= ys[1]; e += 1) {
    svg.append(shape("line", { class: "grid", x1: left, x2: w - right, y1: y(10 ** e), y2: y(10 ** e) }),
      shape("text", { x: left - 6, y: y(10 ** e) + 4, "text-anchor": "end" }, `${count(10 ** e)}`));
  }
  svg.append(shape("text", { x: (w + left) / 2, y: h - 3, "text-anchor": "middle" }, "flops and special functions for each byte of memory traffic"));
  const roof = (rate, ceiling, name, second) => {
    const knee = ceiling / rate;
    const from = 10 ** xs[0];
    const to = 10 ** xs[1];
    const low = Math.max(from, 10 ** ys[0] / rate);
    svg.append(shape("path", { class: second ? "roof second" : "roof", d: `M${x(low)} ${y(low * rate)}L${x(knee)} ${y(ceiling)}H${x(to)}` }),
      shape("text", { x: w - right - 4, y: y(ceiling) - 5, "text-anchor": "end" }, name));
  };
  roof(device.memory_tbs * 1e12, device.fp32_tflops * 1e12, `FP32 ${device.fp32_tflops.toFixed(0)} TFLOP/s`, false);
  roof(device.memory_tbs * 1e12, device.tensor_tflops * 1e12, `tensor cores ${device.tensor_tflops.toFixed(0)} TFLOP/s`, true);
  const whole = part.kernels.reduce((sum, kernel) => sum + us(kernel), 0);
  for (const { kernel, k, x: px, y: py } of points) {
    const dot = shape("circle", {
      class: isSelected(state.plan, k) ? "dot selected" : "dot", style: colour(kernel), cx: x(px), cy: y(py),
      r: 4 + 16 * Math.sqrt(us(kernel) / Math.max(whole, 1e-9)), onclick: () => select(state.plan, k),
    });
    tip(dot, kernelTip(kernel));
    svg.append(dot);
  }
  byId("roofline").replaceChildren(
    el("h2", {}, "Roofline"), svg,
    el("p", { class: "soft small" },
      `A circle is a kernel, as large as its ${points.some((p) => p.kernel.measured_us !== null) ? "measured" : "predicted"} time. The sloping line is the memory's speed `
      + `(${device.memory_tbs.toFixed(2)} TB/s; figures of ${device.title}: ${device.from}). Kernels far below every line wait: for each other's tokens, for launches, or for too few blocks.`));
}

/** Launches of the part one after the other, as long as they take. */
function showTimeline() {
  const part = partOf(state.plan);
  const measured = part.kernels.every((kernel) => kernel.measured_us !== null);
  const rows = [["predicted", (kernel) => kernel.cost.total_us], measured && ["measured", (kernel) => kernel.measured_us]].filter(Boolean);
  const sums = rows.map(([, us]) => part.kernels.reduce((sum, kernel) => sum + us(kernel), 0));
  const most = Math.max(...sums, 1e-9);
  const [w, left, height] = [1440, 76, 52];
  const h = rows.length * (height + 18) + 24;
  const x = (us) => left + (us / most) * (w - left - 8);
  const svg = shape("svg", { class: "chart", viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": "timeline" });
  for (const [r, [name, us]] of rows.entries()) {
    const y = 4 + r * (height + 18);
    svg.append(shape("text", { x: 0, y: y + 14 }, name), shape("text", { x: 0, y: y + 30 }, time(sums[r])));
    let at = 0;
    for (const [k, kernel] of part.kernels.entries()) {
      const lanes = kernel.phases.flat();
      const [a, b] = [x(at), x(at + us(kernel))];
      const group = shape("g", { onclick: () => select(state.plan, k) });
      // What runs side by side lies on top of each other, what comes after a barrier to the right.
      const step = (b - a) / kernel.phases.length;
      for (const [p, of] of kernel.phases.entries()) {
        for (const [l, lane] of of.entries()) {
          group.append(shape("rect", {
            class: "bar", style: `fill: color-mix(in srgb, ${hue(lane.template)} 70%, var(--panel))`,
            x: a + p * step, y: y + (l * height) / of.length, width: Math.max(step, 0.6), height: height / of.length,
          }));
        }
      }
      group.append(shape("rect", {
        class: isSelected(state.plan, k) ? "bar selected" : "bar", fill: "none", x: a, y, width: Math.max(b - a, 0.6), height, "pointer-events": "all",
      }));
      if (b - a > 44) {
        group.append(shape("text", { x: a + 5, y: y + height + 12, style: "pointer-events: none" }, shorten(kernel.name, b - a - 8, 11)));
      }
      tip(group, () => [...kernelTip(kernel)(), el("div", { class: "dim" }, lanes.map((lane) => lane.template).join(" beside "))]);
      svg.append(group);
      at += us(kernel);
    }
  }
  const title = part.times > 1 ? `Timeline of one of ${part.times} equal layers` : `Timeline: ${part.title}`;
  byId("timeline").replaceChildren(el("h2", {}, title), svg,
    el("p", { class: "soft small" }, "Launches follow each other; what runs side by side inside one lies on top of each other."));
}

/** What lies in memory, launch by launch. */
function showMemory() {
  const memory = regimeOf(state.plan).memory;
  const part = partOf(state.plan);
  const { w, left, right, top } = CHART;
  const [curve, map] = [150, 150];
  const h = top + curve + 26 + map + 30;
  const steps = Math.max(memory.live.length, 1);
  const x = (step) => left + (step / steps) * (w - left - right);
  const scale = Math.max(memory.arena, 1);
  const y = (value) => top + curve - (value / scale) * curve;
  const svg = shape("svg", { class: "chart", viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": "memory over the launches of a run" });
  for (const [value, anchor] of [[0, top + curve], [scale / 2, top + curve / 2], [scale, top]]) {
    svg.append(shape("line", { class: "grid", x1: left, x2: w - right, y1: anchor, y2: anchor }),
      shape("text", { x: left - 6, y: anchor + 4, "text-anchor": "end" }, bytes(value)));
  }
  const line = memory.live.map((value, step) => `L${x(step)} ${y(value)}H${x(step + 1)}`).join("");
  svg.append(shape("path", { class: "area", d: `M${x(0)} ${y(0)}${line}L${x(steps)} ${y(0)}Z` }));
  const y0 = top + curve + 26;
  svg.append(shape("text", { x: left, y: y0 - 7 }, "where each buffer lies in that region, and when"));
  const hues = ["row", "gemm", "scan", "gemv", "attend", "thin", "chunked"];
  for (const [i, buffer] of memory.buffers.entries()) {
    const rect = shape("rect", {
      class: "buffer", style: `--c: ${hue(hues[i % hues.length])}`,
      x: x(buffer.first), width: Math.max(1, x(buffer.last + 1) - x(buffer.first)),
      y: y0 + (buffer.offset / scale) * map, height: Math.max(1, (buffer.bytes / scale) * map),
    });
    tip(rect, () => [el("b", {}, buffer.name), el("div", {}, `${bytes(buffer.bytes)}, launches ${buffer.first} to ${buffer.last}`)]);
    svg.append(rect);
  }
  const from = part.first_launch;
  const to = from + part.kernels.length;
  for (const at of [from, to]) svg.append(shape("line", { class: "cursor", x1: x(at), x2: x(at), y1: top, y2: y0 + map }));
  svg.append(shape("text", { x: left, y: h - 8 }, `launch 0`), shape("text", { x: w - right, y: h - 8, "text-anchor": "end" }, `launch ${memory.live.length - 1}`));
  const peak = memory.live.length ? memory.live.reduce((a, b) => Math.max(a, b)) : 0;
  byId("memory").replaceChildren(el("h2", {}, "Memory over the run"), svg,
    el("p", { class: "soft small" },
      `Buffers of a run share ${bytes(memory.arena)}, of which at most ${bytes(peak)} are in use at a time; `
      + `beside them lie ${bytes(memory.constants)} of parameters and ${bytes(memory.states)} of states. `
      + (memory.folded > 0 ? `${memory.folded} buffers of layers that are equal to one shown are not drawn. ` : "")
      + "The dashed lines are where the part above runs."));
}

/** All kernels of the part as a table. */
function showKernels() {
  const part = partOf(state.plan);
  const plan = data.plans[state.plan];
  const measured = part.kernels.some((kernel) => kernel.measured_us !== null);
  const head = ["kernel", "template", "operations", "blocks", "threads", "registers", "spills", "traffic", "flops", "predicted", measured && "measured", "limited by"].filter(Boolean);
  const rows = part.kernels.map((kernel, k) => {
    const code = plan.code[kernel.code];
    const used = code.resources;
    const spills = used?.spills ? used.spills.store_bytes + used.spills.load_bytes : null;
    const cells = [
      el("button", { class: "link mono small", type: "button" }, kernel.name),
      el("span", { class: "tag", style: colour(kernel) }, kernel.template),
      part.ops.filter((op) => op.kernel === k).length,
      count(kernel.blocks), code.threads, used ? used.registers : "-", spills ?? "-",
      bytes(kernel.cost.bytes), count(flops(kernel.cost)), time(kernel.cost.total_us),
      measured && (kernel.measured_us === null ? "-" : time(kernel.measured_us)),
      el("span", {}, kernel.limited_by),
    ].filter((cell) => cell !== false);
    return el("tr", { class: isSelected(state.plan, k) ? "selected" : null, onclick: () => select(state.plan, k) },
      cells.map((cell, c) => el("td", { class: c === 1 ? "left" : null }, cell)));
  });
  byId("kernels").replaceChildren(
    el("h2", {}, `Kernels of ${part.title}${data.plans.length > 1 ? `, plan ${plan.label}` : ""}`),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((name, c) => el("th", { class: c === 1 ? "left" : null }, name)))), el("tbody", {}, rows))));
}
