"use strict";
// What all pages share: elements, numbers, data that is loaded when it is needed, charts.
const byId = id => document.getElementById(id);
// Texts are set as texts: whatever a name holds, it is shown and not obeyed.
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element[name] = value;
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}
function drawn(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
const known = value => typeof value === "number" && Number.isFinite(value);
function number(value, digits = 3) {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.floor(Math.log10(Math.abs(value)));
  return size >= digits || size < -4 ? Number(value.toPrecision(digits)).toString() : value.toFixed(Math.max(0, digits - 1 - size));
}
const pathOf = text => text.split("/").map(encodeURIComponent).join("/");

// Data beside the page: scripts, for pages on a disk may load nothing else.
const store = { parts: new Map(), waiting: new Map() };
function canonface(name, content) {
  store.parts.set(name, content);
  for (const take of store.waiting.get(name) || []) take(content);
  store.waiting.delete(name);
}
function load(name) {
  if (store.parts.has(name)) return Promise.resolve(store.parts.get(name));
  return new Promise((take, refuse) => {
    if (store.waiting.has(name)) { store.waiting.get(name).push(take); return; }
    store.waiting.set(name, [take]);
    const script = make("script", { src: "data/" + name + ".js", onload: () => script.remove() });
    script.onerror = () => { store.waiting.delete(name); refuse(new Error("data/" + name + ".js is missing")); };
    document.head.append(script);
  });
}

// Charts: one idea of axes for all of them.
const CHART = { width: 420, height: 210, left: 60, right: 12, top: 10, bottom: 34 };
function chart(label, low, high, bottom, top, xLabel, yLabel, whole = false) {
  const c = CHART, svg = drawn("svg", { viewBox: `0 0 ${c.width} ${c.height}`, role: "img", "aria-label": label, width: "100%" });
  const span = (value, from, to) => (value - from) / Math.max(to - from, 1e-12);
  const x = v => c.left + span(v, low, high) * (c.width - c.left - c.right);
  const y = v => c.height - c.bottom - span(v, bottom, top) * (c.height - c.top - c.bottom);
  // Of whole numbers as many marks as there are.
  const marks = whole ? Math.max(1, Math.min(4, Math.round(high - low))) : 4;
  for (let i = 0; i <= 4; i++) {
    const h = low + (high - low) * i / marks, v = bottom + (top - bottom) * i / 4;
    svg.append(drawn("line", { class: "axis", x1: x(low), x2: x(high), y1: y(v), y2: y(v) }));
    svg.append(drawn("text", { x: x(low) - 5, y: y(v) + 4, "text-anchor": "end" }, number(v)));
    if (xLabel !== null && i <= marks) svg.append(drawn("text", { x: x(h), y: c.height - c.bottom + 14, "text-anchor": i === 0 ? "start" : i === marks ? "end" : "middle" }, whole ? String(Math.round(h)) : number(h)));
  }
  if (xLabel) svg.append(drawn("text", { x: (x(low) + x(high)) / 2, y: c.height - 5, "text-anchor": "middle" }, xLabel));
  if (yLabel) svg.append(drawn("text", { x: 11, y: (y(bottom) + y(top)) / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${(y(bottom) + y(top)) / 2})` }, yLabel));
  return { svg, x, y };
}
function quantile(sorted, share) {
  if (!sorted.length) return NaN;
  const at = share * (sorted.length - 1), i = Math.floor(at);
  return sorted[i] + (at - i) * ((sorted[i + 1] ?? sorted[i]) - sorted[i]);
}
const sortedKnown = values => Float64Array.from(values.filter(known)).sort();
function histogram(values, label) {
  const sorted = sortedKnown(values);
  if (!sorted.length) return null;
  let high = quantile(sorted, 0.995);
  // From 0, unless all values are so far from it that they would be one bar.
  const low = sorted[0] > 0.5 * high ? sorted[0] : Math.min(0, sorted[0]);
  if (!(high > low)) high = low + 1;
  const many = Math.max(8, Math.min(40, Math.ceil(2 * Math.sqrt(sorted.length)))), bins = new Array(many).fill(0);
  for (const v of sorted) bins[Math.min(many - 1, Math.floor((v - low) / (high - low) * many))]++;
  const most = Math.max(...bins) / sorted.length * 100;
  const c = chart(label, low, high, 0, most, label, "% of frames");
  bins.forEach((n, i) => {
    const x = low + (high - low) * i / many, share = n / sorted.length * 100;
    c.svg.append(drawn("rect", { class: "bar", x: c.x(x), y: c.y(share), width: (c.x(high) - c.x(low)) / many - 0.6, height: c.y(0) - c.y(share) }));
  });
  const marks = [["median", 0.5, ""], ["95 %", 0.95, "4 3"]];
  marks.forEach(([name, share, dash], i) => {
    const v = quantile(sorted, share), x = c.x(Math.min(v, high)), end = x > 300;
    c.svg.append(drawn("line", { class: "mark", x1: x, x2: x, y1: CHART.top, y2: c.y(0), "stroke-dasharray": dash }));
    c.svg.append(drawn("text", { x: x + (end ? -4 : 4), y: CHART.top + 10 + 13 * i, "text-anchor": end ? "end" : "start" }, `${name} ${number(v)}`));
  });
  return c.svg;
}
// Groups as lines of 5 to 95 %, boxes of the middle half, and a mark at the median; the worst first.
function spread(groups, label, worse, most = 24) {
  const rows = [];
  for (const [name, values] of groups) {
    const s = sortedKnown(values);
    if (s.length) rows.push({ name, count: s.length, q: [0.05, 0.25, 0.5, 0.75, 0.95].map(p => quantile(s, p)) });
  }
  if (!rows.length) return null;
  rows.sort((a, b) => worse * (b.q[2] - a.q[2]));
  const shown = rows.slice(0, most), low = Math.min(0, ...shown.map(r => r.q[0])), high = Math.max(...shown.map(r => r.q[4]), low + 1e-9);
  const left = 150, width = 460, height = 26 + 17 * shown.length;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height + 16}`, role: "img", "aria-label": label, width: "100%" });
  const x = v => left + (v - low) / (high - low) * (width - left - 46);
  for (let i = 0; i <= 4; i++) {
    const v = low + (high - low) * i / 4;
    svg.append(drawn("line", { class: "axis", x1: x(v), x2: x(v), y1: 4, y2: height - 16 }));
    svg.append(drawn("text", { x: x(v), y: height - 3, "text-anchor": "middle" }, number(v)));
  }
  shown.forEach((r, i) => {
    const y = 13 + 17 * i, name = r.name.length > 22 ? r.name.slice(0, 10) + "…" + r.name.slice(-11) : r.name;
    const title = drawn("title", {}, `${r.name}: median ${number(r.q[2])}, half between ${number(r.q[1])} and ${number(r.q[3])}, 90 % between ${number(r.q[0])} and ${number(r.q[4])}`);
    const g = drawn("g", {});
    g.append(title, drawn("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, name),
      drawn("line", { class: "line", x1: x(r.q[0]), x2: x(r.q[4]), y1: y, y2: y }),
      drawn("rect", { class: "box", x: x(r.q[1]), y: y - 5, width: Math.max(x(r.q[3]) - x(r.q[1]), 1), height: 10 }),
      drawn("line", { class: "mark", x1: x(r.q[2]), x2: x(r.q[2]), y1: y - 6, y2: y + 6 }),
      drawn("text", { x: width - 2, y: y + 4, "text-anchor": "end" }, "n " + r.count));
    svg.append(g);
  });
  svg.append(drawn("text", { x: (x(low) + x(high)) / 2, y: height + 11, "text-anchor": "middle" }, label));
  return { svg, left: rows.length - shown.length };
}
function timeline(frames, values, label, limits, along = "frame number") {
  const pairs = frames.map((f, i) => [f, values[i]]).filter(p => known(p[1]));
  if (!pairs.length) return null;
  const top = Math.max(...pairs.map(p => p[1]), ...limits.map(l => l[1]), 1e-9) * 1.08;
  const first = pairs[0][0], last = pairs[pairs.length - 1][0];
  const c = chart(label, first, last === first ? first + 1 : last, Math.min(0, ...pairs.map(p => p[1])), top, along, label, true);
  for (const [name, limit] of limits) {
    c.svg.append(drawn("line", { class: "other", x1: c.x(first), x2: CHART.width - CHART.right, y1: c.y(limit), y2: c.y(limit) }));
    c.svg.append(drawn("text", { x: CHART.width - CHART.right, y: c.y(limit) - 3, "text-anchor": "end" }, name));
  }
  c.svg.append(drawn("polyline", { class: "line", points: pairs.map(p => `${c.x(p[0]).toFixed(1)},${c.y(p[1]).toFixed(1)}`).join(" ") }));
  if (pairs.length < 120) for (const p of pairs) c.svg.append(drawn("circle", { class: "dot", cx: c.x(p[0]), cy: c.y(p[1]), r: 2 }));
  return c.svg;
}
// Stated confidence against the share that was right: on the diagonal it is honest, below it is too sure.
function reliability(stated, correct, count, yLabel) {
  const c = chart("stated confidence against what was right", 0, 1, 0, 1, "stated confidence (area: share of points)", yLabel);
  const all = count.reduce((a, b) => a + b, 0);
  c.svg.append(drawn("line", { class: "other", x1: c.x(0), y1: c.y(0), x2: c.x(1), y2: c.y(1) }));
  c.svg.append(drawn("polyline", { class: "line", points: stated.map((s, i) => `${c.x(s)},${c.y(correct[i])}`).join(" ") }));
  stated.forEach((s, i) => c.svg.append(drawn("circle", { class: "dot", cx: c.x(s), cy: c.y(correct[i]), r: 2.5 + 9 * Math.sqrt(count[i] / all), opacity: 0.75 })));
  c.svg.append(drawn("text", { x: c.x(0.03), y: c.y(0.9) }, "too careful"), drawn("text", { x: c.x(0.97), y: c.y(0.06), "text-anchor": "end" }, "too sure"));
  return c.svg;
}
function ramp(stops, low, high, unit, open) {
  const colours = stops.map(s => `rgb(${s.join(",")})`).join(",");
  return make("span", { class: "ramp" }, number(low), make("i", { style: `background:linear-gradient(90deg,${colours})` }), (open ? "≥ " : "") + number(high) + " " + unit);
}
