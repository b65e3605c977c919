"use strict";
const page = JSON.parse(byId("page").textContent);
const STATUS = ["fail", "review", "pass"], ROW_PX = 40;
const count = page.count, rows = { subject: new Int32Array(count), sequence: new Int32Array(count), frame: new Array(count),
  status: new Uint8Array(count), why: new Int16Array(count), value: new Float64Array(count), rank: new Int32Array(count),
  pictured: new Int32Array(count), columns: page.columns.map(() => new Float64Array(count)) };
const nameOf = i => page.subjects[rows.subject[i]] + "/" + page.sequences[rows.sequence[i]] + "/" + String(rows.frame[i]).padStart(6, "0");
const sequenceOf = i => page.subjects[rows.subject[i]] + "/" + page.sequences[rows.sequence[i]];
const marked = new Set();
let order = [], sortBy = { key: "rank", sign: 1 }, only = null;

// Columns of the table: thumbnail, mark, name, verdict, why, then figures.
const heads = [
  { title: "", wide: "46px" }, { title: "mark", wide: "54px" }, { title: "frame", wide: "minmax(200px, 2fr)", key: "name" },
  { title: "verdict", wide: "92px", key: "rank" }, { title: "because", wide: "minmax(210px, 3fr)", key: "why" },
  ...page.columns.map((c, k) => ({ title: c.title + (c.unit ? " " + c.unit : ""), wide: "minmax(96px, 1fr)", key: k, column: k })),
];
const grid = heads.map(h => h.wide).join(" "), wide = 660 + 104 * page.columns.length;
const table = byId("table"), headRow = make("div", { role: "row", class: "heads", style: `display:grid;grid-template-columns:${grid};width:max(100%, ${wide}px);height:46px;position:sticky` });
const body = make("div", { role: "rowgroup", style: `position:relative;width:max(100%, ${wide}px)` });
for (const head of heads) {
  const cell = make("div", { role: "columnheader", class: head.column === undefined ? "" : "n" });
  if (head.key === undefined) cell.append(make("span", { class: "soft", style: "font-size:12.5px;padding:0 8px", text: head.title }));
  else cell.append(make("button", { text: head.title, onclick: () => sortOn(head) }));
  head.cell = cell;
  headRow.append(cell);
}
table.append(headRow, body);

function sortOn(head) {
  const worse = head.column === undefined ? 1 : -(page.columns[head.column].worse || 1);
  sortBy = { key: head.key, sign: sortBy.key === head.key ? -sortBy.sign : worse };
  arrange();
}
function filters() {
  const words = byId("find").value.trim().split(/\s+/).filter(Boolean), tests = [];
  for (const word of words) {
    const parts = word.match(/^(.+?)(<=|>=|<|>)(-?[\d.]+)$/);
    const column = parts && page.columns.findIndex(c => c.name.includes(parts[1].toLowerCase()) || c.title.replace(/[ ,%]/g, "").includes(parts[1].toLowerCase()));
    if (parts && column >= 0) {
      const values = rows.columns[column], limit = Number(parts[3]), less = parts[2][0] === "<";
      tests.push(i => less ? values[i] < limit : values[i] > limit);
    } else {
      const text = word.toLowerCase();
      const fits = page.reasons.map(r => r.toLowerCase().includes(text));
      tests.push(i => nameOf(i).toLowerCase().includes(text) || fits[rows.why[i]]);
    }
  }
  const status = byId("status").value, reason = byId("reason").value;
  if (status !== "") tests.push(i => rows.status[i] === Number(status));
  if (reason !== "") tests.push(i => rows.why[i] === Number(reason));
  if (byId("pictured").checked) tests.push(i => rows.pictured[i] >= 0);
  return tests;
}
function arrange() {
  const tests = filters(), from = only || Array.from({ length: count }, (_, i) => i);
  order = from.filter(i => tests.every(test => test(i)));
  const { key, sign } = sortBy;
  if (key === "name") order.sort((a, b) => sign * (a - b));
  else if (key === "why") order.sort((a, b) => sign * (rows.why[a] - rows.why[b]) || rows.rank[a] - rows.rank[b]);
  else {
    const values = key === "rank" ? rows.rank : rows.columns[key];
    order.sort((a, b) => {
      const x = values[a], y = values[b];
      return Number.isNaN(x) ? (Number.isNaN(y) ? rows.rank[a] - rows.rank[b] : 1) : Number.isNaN(y) ? -1 : sign * (x - y) || rows.rank[a] - rows.rank[b];
    });
  }
  for (const head of heads) {
    if (head.key === sortBy.key && head.cell) head.cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    else head.cell.removeAttribute("aria-sort");
  }
  byId("shown").textContent = `${order.length.toLocaleString("en")} of ${count.toLocaleString("en")} frames${only ? " (of one alert)" : ""}`;
  table.setAttribute("aria-rowcount", order.length + 1);
  body.style.height = order.length * ROW_PX + "px";
  table.scrollTop = 0;
  focused = 0;
  paint(true);
}
const live = new Map();
let focused = 0;
function paint(afresh) {
  const first = Math.max(0, Math.floor(table.scrollTop / ROW_PX) - 4), last = Math.min(order.length, first + Math.ceil(table.clientHeight / ROW_PX) + 8);
  for (const [at, row] of live) if (afresh || at < first || at >= last) { row.remove(); live.delete(at); }
  for (let at = first; at < last; at++) if (!live.has(at)) { const row = rowAt(at); live.set(at, row); body.append(row); }
}
function because(i) {
  return rows.why[i] < 0 ? "–" : page.reasons[rows.why[i]] + (known(rows.value[i]) ? ` (${number(rows.value[i])})` : "");
}
function rowAt(at) {
  const i = order[at], status = STATUS[rows.status[i]], name = nameOf(i);
  const cell = (text, kind) => make("div", { role: "gridcell", class: kind, text, title: text });
  const box = make("input", { type: "checkbox", "aria-label": "mark " + name, tabindex: "-1", onclick: e => { e.stopPropagation(); mark(i, box.checked); } });
  box.checked = marked.has(i);
  return make("div", { role: "row", class: "data", "aria-rowindex": at + 2, tabindex: at === focused ? "0" : "-1",
      style: `top:${at * ROW_PX}px;grid-template-columns:${grid};width:100%`, onclick: () => open(at), onfocus: () => { focused = at; },
      onkeydown: e => keys(e, at, box) },
    make("div", { role: "gridcell" }, rows.pictured[i] >= 0 ? make("img", { src: `pictures/${rows.pictured[i]}/thumbnail.png`, alt: "", loading: "lazy" }) : null),
    make("div", { role: "gridcell" }, box), cell(name), make("div", { role: "gridcell" }, make("span", { class: "badge " + status, text: status })), cell(because(i)),
    rows.columns.map(values => cell(number(values[i]), "n")));
}
function keys(e, at, box) {
  if (e.target.tagName === "INPUT" && e.key !== "Escape") return;
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -order.length, End: order.length };
  if (e.key in steps) { toRow(at + steps[e.key]); e.preventDefault(); }
  else if (e.key === "Enter") open(at);
  else if (e.key === " ") { box.checked = !box.checked; mark(order[at], box.checked); e.preventDefault(); }
}
function toRow(at) {
  focused = Math.max(0, Math.min(order.length - 1, at));
  const top = focused * ROW_PX, view = table.clientHeight - 46;
  if (top < table.scrollTop) table.scrollTop = top;
  else if (top + ROW_PX > table.scrollTop + view) table.scrollTop = top + ROW_PX - view;
  paint(false);
  for (const [other, row] of live) row.tabIndex = other === focused ? 0 : -1;
  live.get(focused)?.focus();
}
table.addEventListener("scroll", () => paint(false), { passive: true });
new ResizeObserver(() => paint(false)).observe(table);

// Marked frames become a command.
const quoted = text => /^[\w./=@%+:,-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'";
function mark(i, on) { if (on) marked.add(i); else marked.delete(i); command(); }
function command() {
  const names = [...marked].sort((a, b) => a - b).map(nameOf);
  byId("marked").textContent = names.length.toLocaleString("en");
  byId("command").value = !names.length ? "" : names.length <= 400 ? ["datagen requeue", quoted(page.build), ...names.map(quoted)].join(" ") :
    `xargs -d '\\n' -a marked.txt datagen requeue ${quoted(page.build)}   # with the saved list of ${names.length} frames`;
  return names;
}
byId("markall").onclick = () => { for (const i of order) marked.add(i); command(); paint(true); };
byId("unmark").onclick = () => { marked.clear(); command(); paint(true); };
byId("copy").onclick = () => { byId("command").select(); if (navigator.clipboard) navigator.clipboard.writeText(byId("command").value).catch(() => document.execCommand("copy")); else document.execCommand("copy"); };
byId("list").onclick = () => {
  const link = make("a", { href: URL.createObjectURL(new Blob([command().join("\n") + "\n"], { type: "text/plain" })), download: "marked.txt" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
for (const id of ["find", "status", "reason", "pictured"]) byId(id).addEventListener("input", arrange);
byId("clear").onclick = () => { only = null; byId("find").value = byId("status").value = byId("reason").value = ""; byId("pictured").checked = false; arrange(); };
page.reasons.forEach((reason, k) => byId("reason").append(make("option", { value: k, text: reason.length > 60 ? reason.slice(0, 58) + "…" : reason })));
for (const button of document.querySelectorAll("[data-alert]")) {
  button.onclick = () => load("alerts").then(lists => { only = lists[Number(button.dataset.alert)]; arrange(); byId("frames").scrollIntoView(); toRow(0); if (only.length === 1) open(0); });
}

// The card of one frame.
const card = byId("card");
let opened = 0;
function open(at) {
  opened = at;
  const i = order[at];
  load("cards-" + Math.floor(i / page.cards)).then(cards => { fill(i, cards[i % page.cards]); if (!card.open) card.showModal(); card.scrollTop = 0; });
}
card.addEventListener("close", () => { history.replaceState(null, "", location.pathname + location.search); toRow(opened); });
function list(pairs) { return make("dl", {}, pairs.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: typeof value === "number" || value === null ? number(value) : value })))); }
const section = (title, ...inside) => make("section", {}, make("h2", { text: title }), ...inside);
function fill(i, c) {
  const name = nameOf(i), status = STATUS[rows.status[i]];
  history.replaceState(null, "", "#frame=" + encodeURIComponent(name));
  const step = n => make("button", { text: n < 0 ? "← worse" : "better →", disabled: !order[opened + n] && order[opened + n] !== 0, onclick: () => open(opened + n) });
  const moves = sortBy.key === "rank" ? [step(-1), step(1)] : [make("button", { text: "← previous", disabled: opened === 0, onclick: () => open(opened - 1) }), make("button", { text: "next →", disabled: opened + 1 >= order.length, onclick: () => open(opened + 1) })];
  const parts = [make("div", { class: "row" }, make("h3", { id: "cardname", text: name }), make("span", { class: "badge " + status, text: status }),
    c.chosen ? make("span", { class: "soft", text: c.chosen }) : null, ...moves,
    make("button", { text: marked.has(i) ? "unmark" : "mark", onclick: e => { mark(i, !marked.has(i)); e.target.textContent = marked.has(i) ? "unmark" : "mark"; paint(true); } }),
    make("button", { text: "close", onclick: () => card.close() }))];
  if (c.stale && !c.alerts) parts.push(make("p", { class: "fail", text: "Stale: " + c.stale }));
  if (c.alerts) parts.push(make("ul", {}, c.alerts.map(([severity, title, found]) => make("li", { class: severity === "note" ? "soft" : severity, text: title[0].toUpperCase() + title.slice(1) + ": " + found }))));
  parts.push(c.reasons.length ? make("ul", {}, c.reasons.map(r => make("li", { text: r }))) : make("p", { text: c.alerts ? "Its own figures are within their limits all the same." : "Every metric is within its limits." }));
  if (c.note) parts.push(make("p", { class: "soft", text: c.note }));
  if (!c.warp) parts.push(make("p", { class: "soft", text: "There is no warp of this frame: it failed before one could be made." }));
  if (c.scan) parts.push(threeD(c));
  if (c.pictures) parts.push(section("Pictures", make("div", { class: "sheets" }, c.pictures.map(([key, path]) =>
    make("figure", { class: ["residual", "canonical", "photos"].includes(key) ? "wide" : "" }, make("figcaption", { text: page.titles[key] }), make("a", { href: pathOf(path) }, make("img", { class: "plate", loading: "lazy", src: pathOf(path), alt: page.titles[key] + " of " + name })))))));
  else if (c.warp) parts.push(make("p", { class: "soft", text: "No pictures were drawn of this frame. `datagen report --worst` draws more." }));
  if (c.warp) parts.push(evidence(c));
  if (c.regions) parts.push(regionTable(c.regions, c.metrics));
  else if (c.warp) parts.push(make("p", { class: "soft", text: "The points of this frame were not measured: it is not of the sample. `datagen explain` measures it." }));
  if (c.landmarks) parts.push(section("Landmarks given, and where the warp has them", list(c.landmarks.slice(0, 12).map(m => [`landmark ${m.index}`, number(m.mm) + " mm"])), make("p", { class: "soft", text: `${c.landmarks.length} were given; the farthest off first.` })));
  const fits = [...(c.cameraFits || []).map(f => ["camera " + f[0], f]), ...(c.regionFits || []).map(f => [f[0].replaceAll("_", " "), f])];
  if (c.training) parts.push(section("In training", make("p", { class: "soft", text: "Among the samples that the training run is worst at: mean canonical error." }), list(c.training.map(([camera, kind, mm, step]) => [`${camera}, ${kind}, step ${step}`, mm + " mm"]))));
  if (fits.length) parts.push(section("Pictures held against the subject's others", make("p", { class: "soft", text: "How far beside where they lie they fit best, and how like they are there." }), list(fits.map(([n, f]) => [n, `${number(f[1])} mm, ${number(f[2])}`]))));
  parts.push(section("All metrics", list(Object.entries(c.metrics).filter(([figure]) => !OWN_PLACE.test(figure)))));
  const made = [["cameras that give samples", c.cameras.join(", ") || "none"], ...Object.entries(c.out).map(([camera, why]) => ["without " + camera, why])];
  made.push(["content key", c.key || "none"], ["input", c.input || "none"]);
  parts.push(section("What it is made of", list(made)), make("pre", { text: `datagen explain ${quoted(page.build)} ${quoted(name)}` }));
  card.replaceChildren(...parts);
}
// What the warp was held by: each source, how much of the start it decided, and how far it is off in the end.
const counted = value => known(value) ? Math.round(value).toLocaleString("en") : "–";
function evidence(c) {
  const m = c.metrics, share = name => known(m["held_" + name]) ? number(100 * m["held_" + name], 2) + " %" : "–", rows = [];
  const row = (source, given, held, off) => rows.push([source, given, share(held), number(m["energy_" + held]), off]);
  const registered = known(m.registration_shift_mm), own = m.person_used === 1, landmarks = c.landmarks ? c.landmarks.length + " points" : "given";
  row("scan", `${counted(m.scan_vertices)} points, ${number(100 * m.matched_fraction)} % have a counterpart`, "scan", `${number(m.residual_median_mm)} mm median, ${number(m.residual_p95_mm)} mm at 95 %`);
  if (known(m.landmark_rms_mm)) row("landmarks", landmarks, "landmarks", `${number(m.landmark_rms_mm)} mm RMS, the farthest (${number(m.landmark_worst)}) ${number(m.landmark_worst_mm)} mm`);
  const moved = `the face ended ${number(m.registration_shift_mm)} mm from it (median)`;
  if (registered && own) row("registration", "given", "registration", moved);
  if (known(m.pictures)) row("pictures", `${number(m.pictures)} heeded`, "pictures", `${number(m.picture_usual_sigmas)} of their standard deviations usually, ${number(m.picture_worst_sigmas)} at worst`);
  else if (m.pictures_refused) rows.push(["pictures", "refused: they contradict all else, or each other", "–", "–", "–"]);
  const keys = c.person && `learnt from frames ${c.person.join(", ")}`;
  if (own) row("the person", keys || "learnt", "prior", "–");
  else if (registered) row("registration", "given; where the start begins", "prior", moved);
  else row("the head model", "the usual face of its kind", "prior", "–");
  if (!own) rows.push(["the person", m.person_used === 0 ? `not used: this frame agrees less with it than with a start of its own (${keys})` : keys ? `${keys}; not used here` : "none was learnt of this sequence", "–", "–", "–"]);
  const stages = [1, 2, 3, 4, 5, 6].filter(k => known(m[`stage_${k}_apart_mm`]));
  const cells = (kind, values, numbers) => make("tr", {}, values.map((value, k) => make(kind, { class: numbers.includes(k) ? (values.length === 5 && k === 3 ? "n hide-small" : "n") : null, text: value })));
  const grid = (label, heads, body, numbers) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, make("table", {}, cells("th", heads, numbers), body.map(values => cells("td", values, numbers))));
  return section("What held it", grid("Evidence by source", ["source", "what was given", "decided", "energy", "how far off in the end"], rows, [2, 3]),
    make("p", { class: "soft", text: known(m.held_prior) ? "Decided: how much of the shape and pose that the warp starts from each source determines; the last of them is what was believed before anything else was seen. Energy: half the sum of squared residuals, in standard deviations." : "How much each source decided is not recorded: an older version made this warp." }),
    ...(stages.length ? [grid("Stages", ["stage of the refinement", "vertices held by the scan", "from it before the last round, RMS mm", "moved, RMS mm"], stages.map(k => [k + (k === stages.length ? ", the finest" : k === 1 ? ", the coarsest" : ""), counted(m[`stage_${k}_held_vertices`]), number(m[`stage_${k}_apart_mm`]), number(m[`stage_${k}_moved_mm`])]), [1, 2, 3])] : []));
}
const OWN_PLACE = /^(held|energy|stage)_/;
// The least share of a region that the scan covers; cheeks have two sides.
const coverageOf = (name, m) => { const found = ["", "left_", "right_"].map(side => m["coverage_" + side + name.replace(/s$/, side ? "" : "s")]).filter(known); return found.length ? Math.min(...found) : NaN; };
function regionTable(regions, metrics) {
  for (const [name, row] of Object.entries(regions)) row.coverage = coverageOf(name, metrics);
  const cells = ["coverage", "distance_median_mm", "distance_p95_mm", "back_median_mm", "back_p95_mm", "round_trip_p95_mm", "confidence", "near", "correct", "error_median_mm", "error_p95_mm"];
  const titles = ["covered by the scan", "to the template, median mm", "95 %", "back, median mm", "95 %", "there and back, 95 % mm", "confidence", "near", "right", "true error, median mm", "95 %"];
  const used = cells.filter(cell => Object.values(regions).some(r => known(r[cell])));
  return section("By region", make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Figures of this frame by region" }, make("table", {},
    make("tr", {}, make("th", { text: "region" }), used.map(cell => make("th", { class: "n", text: titles[cells.indexOf(cell)] }))),
    Object.entries(regions).map(([name, row]) => {
      const label = name.replaceAll("_", " "), colour = page.regions[label];
      return make("tr", {}, make("td", { style: "white-space:nowrap" }, make("span", { class: "swatch", style: `background:rgb(${colour.slice(1).join(",")})` }), label), used.map(cell => make("td", { class: "n", text: number(row[cell]) })));
    }))));
}

// Scan and template in three dimensions, side by side, turned together.
function threeD(c) {
  return pairView(Promise.all([load(c.scan), page.template ? load("template") : null]).then(([data, shared]) => {
    const template = shared && decoded(shared), at = { centre: data.centre, radius: data.radius }, right = [];
    if (data.registered && template) right.push({ title: "registered template", ...template, ...at, positions: placeOf(data.registered) });
    if (template) right.push({ title: "neutral template", ...template, centre: shared.centre, radius: shared.radius });
    return [[{ title: "scan", ...decoded(data.scan), ...at }], right];
  }));
}

// Charts over all frames.
const figure = byId("figure"), by = byId("by"), line = byId("line");
page.columns.forEach((c, k) => figure.append(make("option", { value: k, text: c.title + (c.unit ? ", " + c.unit : "") })));
const REGIONAL = { residual_median_mm: "distance_median_mm", residual_p95_mm: "distance_median_mm", face_confidence: "confidence", true_error_median_mm: "error_median_mm" };
function plots() {
  const k = Number(figure.value), column = page.columns[k];
  if (!column) { byId("charts").replaceChildren(); return; }
  const values = rows.columns[k], label = column.title + (column.unit ? ", " + column.unit : ""), boxes = [];
  const box = (title, svg, note) => { if (svg) boxes.push(make("figure", {}, make("figcaption", { text: title }), svg, note ? make("p", { class: "soft", text: note }) : null)); };
  const spreadBox = (groups, what) => { const s = spread(groups, what, column.worse || 1); if (s) box(`${what} by ${by.value}`, s.svg, `Line: 90 % of frames; box: half of them; mark: median. Worst first${s.left ? `; ${s.left} better ones are not shown` : ""}.`); };
  box(`Frames: ${column.title}`, histogram(Array.from(values), label));
  if (by.value === "region") {
    const source = REGIONAL[column.name] || "distance_median_mm";
    load("regions").then(all => { const s = spread(Object.entries(all[source] || {}).map(([n, v]) => [n.replaceAll("_", " "), v]), source.replaceAll("_", " "), source === "confidence" ? -1 : 1);
      if (s) byId("charts").insertBefore(make("figure", {}, make("figcaption", { text: source.replaceAll("_", " ") + " by region, of measured frames" }), s.svg, make("p", { class: "soft", text: "Line: 90 % of frames; box: half of them; mark: median." })), byId("charts").children[1] || null); });
  } else {
    const groups = new Map(), key = by.value === "subject" ? i => page.subjects[rows.subject[i]] : by.value === "sequence" ? sequenceOf : i => STATUS[rows.status[i]];
    for (let i = 0; i < count; i++) { const name = key(i); if (!groups.has(name)) groups.set(name, []); groups.get(name).push(values[i]); }
    spreadBox(groups, label);
  }
  const frames = [], along = [];
  for (let i = 0; i < count; i++) if (sequenceOf(i) === line.value) { frames.push(Number(rows.frame[i])); along.push(values[i]); }
  box(`Along ${line.value}`, timeline(frames, along, label, known(column.passing) ? [["limit of a pass", column.passing]] : []));
  byId("charts").replaceChildren(...boxes);
}
for (const control of [figure, by, line]) control.addEventListener("input", plots);
if (page.curve && byId("reliability")) byId("reliability").append(make("figcaption", { text: "Stated confidence and what was right" }), reliability(page.curve.stated, page.curve.correct, page.curve.count, `within ${page.within} mm`));

// A training run beside its data.
function learnt() {
  const told = page.training;
  if (!told) return;
  for (const [title, points] of Object.entries(told.curves)) {
    const svg = timeline(points.map(p => p[0]), points.map(p => p[1]), title, [], "step");
    if (svg) byId("curves").append(make("figure", {}, make("figcaption", { text: title }), svg));
  }
  for (const row of told.worst) {
    const name = row.name.slice(0, row.name.lastIndexOf("/")), camera = row.name.slice(name.length + 1), status = row.at < 0 ? null : STATUS[rows.status[row.at]];
    byId("learnt").append(make("tr", {}, make("td", {}, row.at < 0 ? name : make("button", { text: name, onclick: () => show(row.at) })), make("td", { text: camera }), make("td", { text: row.kind }),
      make("td", { class: "n", text: number(row.canonical_mm) }), make("td", { class: "n", text: number(row.depth_mm) }), make("td", { class: "n", text: row.step }),
      make("td", {}, status ? make("span", { class: "badge " + status, text: status }) : null), make("td", { text: row.at < 0 ? "not in this report" : because(row.at) })));
  }
}
// Opens the card of a frame that the table may not list at the moment.
function show(i) {
  if (!order.includes(i)) byId("clear").onclick();
  const at = order.indexOf(i);
  toRow(at); open(at);
}

// Rows come in parts.
function take(part, start) {
  const n = part.frame.length, set = (to, from) => { for (let k = 0; k < n; k++) to[start + k] = from[k] === null ? NaN : from[k]; };
  for (const key of ["subject", "sequence", "status", "why", "rank", "pictured", "value"]) set(rows[key], part[key]);
  for (let k = 0; k < n; k++) rows.frame[start + k] = part.frame[k];
  part.columns.forEach((values, k) => set(rows.columns[k], values));
}
// Pictures that were not looked at yet are wanted on paper.
addEventListener("beforeprint", () => { for (const image of document.querySelectorAll("img[loading=lazy]")) image.loading = "eager"; });
Promise.all(Array.from({ length: page.parts }, (_, k) => load("rows-" + k))).then(parts => {
  let start = 0;
  parts.forEach((part, k) => { take(part, start); start += part.frame.length; store.parts.delete("rows-" + k); });
  const worst = new Map();
  for (let i = 0; i < count; i++) { const s = sequenceOf(i); worst.set(s, Math.min(worst.get(s) ?? count, rows.rank[i])); }
  // Sequences with the worst frame first.
  for (const [s] of [...worst].sort((a, b) => a[1] - b[1]).slice(0, 500)) line.append(make("option", { text: s }));
  arrange();
  plots();
  learnt();
  const wanted = decodeURIComponent((location.hash.match(/^#frame=(.*)$/) || [])[1] || "");
  if (wanted) { const at = order.findIndex(i => nameOf(i) === wanted); if (at >= 0) { toRow(at); open(at); } }
  document.documentElement.dataset.ready = "yes";
}).catch(error => { byId("shown").textContent = error.message; document.documentElement.dataset.ready = "no"; });
