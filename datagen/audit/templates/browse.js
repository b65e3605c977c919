"use strict";
const page = JSON.parse(byId("page").textContent), still = page.static;
const state = { info: null, at: 0, camera: null, wanted: null, trail: [], token: 0, playing: false };
// A page on a disk has what was written beside it; a served one asks.
async function ask(what, query) {
  if (still) return what === "sequence" ? still.sequences[query.subject + "/" + query.sequence] : what === "history" ? still.history[query.split + "-" + query.sample] : null;
  const answer = await fetch(what + "?" + new URLSearchParams(query)), content = await answer.json();
  if (!answer.ok) throw new Error(content.error || answer.statusText);
  return content;
}
const pictureOf = (sample, kind) => still ? `pictures/${state.info.split}-${sample}-${kind}.png` : "picture?" + new URLSearchParams({ split: state.info.split, sample, kind });
const samplesNow = () => Object.entries(state.info.frames[state.at].samples).map(([camera, sample]) => [Number(camera), sample]);
const said = error => { byId("note").textContent = error.message; };

const LEGENDS = { depth: () => ramp(page.scales.depth, 0, 0.25, "m behind the nearest point", true), confidence: () => ramp(page.scales.confidence, 0, 1, "confidence", false),
  canonical: () => make("span", { text: "canonical: x, y, z from −1 to 1 as red, green, blue" }), normal: () => make("span", { text: "normal: right, up, towards the camera as red, green, blue" }),
  edge: () => make("span", { text: "edge: pixels that a silhouette or a step in depth crosses" }), mask: () => make("span", { text: "mask: white on the person" }) };
function legend() { byId("legend").replaceChildren(...[byId("kind").value, byId("over").value].filter(k => LEGENDS[k]).flatMap(k => [LEGENDS[k](), " "])); }

const views = new Map();
function viewOf(camera) {
  if (views.has(camera)) return views.get(camera);
  const n = page.resolution, base = make("img", { alt: "" }), over = make("img", { alt: "" }), svg = drawn("svg", { viewBox: `0 0 ${n} ${n}`, "aria-hidden": "true" });
  const view = make("div", { class: "view", tabindex: "0", role: "button", "aria-label": `camera ${page.cameras[camera]}: arrow keys move a cross, Enter follows its point` }, base, over, svg);
  const text = make("div", { class: "soft", style: "font-size:13px;min-height:1.4em" });
  const figure = make("figure", {}, make("figcaption", { text: page.cameras[camera] }), view, text);
  const own = { camera, figure, view, base, over, svg, text, cursor: null };
  view.onclick = e => { const box = view.getBoundingClientRect(); select(camera); if (e.detail || e.clientX) follow(own, (e.clientX - box.left) / box.width * n, (e.clientY - box.top) / box.height * n); };
  view.onkeydown = e => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, step = e.shiftKey ? 10 : 1;
    if (e.key in steps) {
      own.cursor = (own.cursor || [n / 2, n / 2]).map((v, k) => Math.max(0.5, Math.min(n - 0.5, v + step * steps[e.key][k])));
      marks(own);
    } else if (e.key === "Enter") { select(camera); follow(own, ...(own.cursor || [n / 2, n / 2])); }
    else return;
    e.preventDefault();
  };
  views.set(camera, own);
  return own;
}
function select(camera) {
  state.camera = camera;
  for (const own of views.values()) own.figure.setAttribute("aria-current", own.camera === camera);
  history_();
}
function marks(own) {
  const parts = [];
  if (own.camera === state.camera && state.trail.length > 1) parts.push(drawn("polyline", { points: state.trail.map(p => `${p.x + 0.5},${p.y + 0.5}`).join(" ") }));
  if (own.cursor) parts.push(drawn("path", { class: "cursor", d: `M${own.cursor[0] - 6} ${own.cursor[1]}h12M${own.cursor[0]} ${own.cursor[1] - 6}v12` }));
  if (own.found) for (const kind of ["under", ""]) parts.push(drawn("circle", { class: kind, cx: own.found.x + 0.5, cy: own.found.y + 0.5, r: page.resolution / 45 }));
  own.svg.replaceChildren(...parts);
}
function draw() {
  const entry = state.info.frames[state.at], kind = byId("kind").value, over = byId("over").value;
  byId("frame").textContent = `frame ${entry.frame} (${state.at + 1} of ${state.info.frames.length})`;
  byId("time").value = state.at;
  const shown = samplesNow().map(([camera, sample]) => {
    const own = viewOf(camera);
    own.sample = sample;
    own.base.src = pictureOf(sample, kind);
    own.over.hidden = !over;
    if (over) own.over.src = pictureOf(sample, over); else own.over.removeAttribute("src");
    own.over.style.opacity = byId("strength").value / 100;
    own.found = null; own.text.textContent = "";
    marks(own);
    return own;
  });
  byId("cameras").replaceChildren(...shown.map(own => own.figure));
  if (!shown.some(own => own.camera === state.camera)) state.camera = shown.length ? shown[0].camera : null;
  if (state.camera !== null) select(state.camera);
  legend();
  find();
}
async function find() {
  if (!state.wanted || still) return;
  const own = ++state.token, now = samplesNow();
  const found = await ask("find", { split: state.info.split, samples: now.map(p => p[1]).join(","), mm: state.wanted.join(",") }).catch(said);
  if (!found || own !== state.token) return;
  now.forEach(([camera], k) => {
    const view = viewOf(camera);
    view.found = found[k];
    view.text.textContent = found[k] ? `${number(found[k].mm, 2)} mm off, depth ${number(found[k].depth_m)} m, confidence ${number(found[k].confidence, 2)}` : "not seen here";
    marks(view);
  });
}
async function follow(own, x, y) {
  if (still) return;
  const point = await ask("point", { split: state.info.split, sample: own.sample, x, y }).catch(said);
  if (!point) return;
  const c = point.canonical_mm, rows = [["camera", page.cameras[own.camera]], ["pixel", point.pixel.join(", ")], ["region", point.region || "–"], ["depth", point.depth_m === null ? "no surface" : point.depth_m + " m"], ["confidence", String(point.confidence)], ["canonical x, y, z", c ? c.join(", ") + " mm" : "unknown here"]];
  const trail = make("button", { text: "follow over time in this camera", disabled: !c, onclick: () => along(own) });
  byId("point").replaceChildren(make("dl", {}, rows.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: value })))), make("p", {}, trail), make("p", { id: "seen", class: "soft" }), make("div", { id: "trace" }));
  traced(own, x, y);
  state.wanted = c; state.trail = [];
  for (const view of views.values()) { view.found = null; view.text.textContent = ""; marks(view); }
  find();
}
// Where the pixel comes from, as far as the build folder tells.
async function traced(own, x, y) {
  const steps = await ask("trace", { split: state.info.split, sample: own.sample, x, y }).catch(said), box = byId("trace");
  if (!steps || !steps.length || !box) return;
  box.replaceChildren(make("h3", { text: "Where this pixel comes from" }), make("dl", { class: "steps" }, steps.map(([name, text]) => make("div", {}, make("dt", { text: name }), make("dd", { text })))));
}
async function along(own) {
  const samples = state.info.frames.map(f => f.samples[own.camera]).filter(s => s !== undefined).slice(0, 512);
  const found = await ask("find", { split: state.info.split, samples: samples.join(","), mm: state.wanted.join(",") }).catch(said);
  if (!found) return;
  state.trail = found.filter(Boolean);
  byId("seen").textContent = `seen in ${state.trail.length} of ${samples.length} frames of ${page.cameras[own.camera]}`;
  marks(own);
}
async function history_() {
  const own = viewOf(state.camera), sample = own.sample;
  const told = await ask("history", { split: state.info.split, sample }).catch(said);
  if (!told || own.sample !== sample) return;
  byId("history").replaceChildren(make("dl", { style: "grid-template-columns:1fr" }, Object.entries(told).map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: value })))));
  state.name = told.sample;
  listed(page.marks);
}
const nameNow = () => `${byId("subject").value}/${byId("sequence").value}/${String(state.info.frames[state.at].frame).padStart(6, "0")}/${page.cameras[state.camera]}`;
function listed(names) {
  page.marks = names;
  const on = state.info && state.camera !== null && names.includes(nameNow());
  byId("mark").textContent = on ? "unmark this sample" : "mark this sample";
  byId("mark").setAttribute("aria-pressed", on);
  byId("marked").textContent = `${names.length} marked`;
  byId("marks").replaceChildren(...names.slice(-50).reverse().map(text => make("li", { text })));
  byId("commands").replaceChildren(...(names.length ? Object.entries(page.commands).map(([what, text]) => make("div", {}, make("span", { class: "soft", text: what }), make("pre", { text }))) : []));
}
byId("mark").onclick = async () => {
  const on = !page.marks.includes(nameNow()), body = JSON.stringify({ split: state.info.split, sample: viewOf(state.camera).sample, on });
  const answer = await fetch("mark", { method: "POST", headers: { "Content-Type": "application/json" }, body }).catch(said);
  if (answer) { const names = await answer.json(); if (answer.ok) listed(names); else said(new Error(names.error)); }
};
async function choose() {
  state.info = await ask("sequence", { subject: byId("subject").value, sequence: byId("sequence").value });
  state.at = 0; state.wanted = null; state.trail = [];
  byId("split").textContent = state.info.split;
  byId("time").max = state.info.frames.length - 1;
  draw();
  document.documentElement.dataset.ready = "yes";
}
function sequences() {
  const own = page.sequences.filter(s => s.subject === byId("subject").value);
  byId("sequence").replaceChildren(...own.map(s => make("option", { text: s.sequence })));
  return choose().catch(said);
}
for (const kind of page.kinds) { byId("kind").append(make("option", { text: kind })); byId("over").append(make("option", { text: kind })); }
byId("over").prepend(make("option", { text: "nothing", value: "", selected: true }));
byId("subject").append(...[...new Set(page.sequences.map(s => s.subject))].map(text => make("option", { text })));
byId("subject").oninput = sequences;
byId("sequence").oninput = () => choose().catch(said);
byId("kind").oninput = byId("over").oninput = draw;
byId("strength").oninput = () => { for (const own of views.values()) own.over.style.opacity = byId("strength").value / 100; };
byId("time").oninput = () => { state.at = Number(byId("time").value); draw(); };
byId("play").onclick = () => {
  state.playing = !state.playing;
  byId("play").textContent = state.playing ? "pause" : "play";
  byId("play").setAttribute("aria-pressed", state.playing);
};
setInterval(() => { if (state.playing && state.info) { state.at = (state.at + 1) % state.info.frames.length; draw(); } }, 250);
if (page.sequences.length) sequences(); else document.documentElement.dataset.ready = "yes";
