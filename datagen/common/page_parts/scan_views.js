"use strict";
// Two meshes side by side, turned together and coloured alike; packed by datagen/audit/scan_view.py. `page` has the
// scales, their limits and the colours of the regions.
const UNKNOWN = [150, 153, 160];
const placeOf = part => placed(new Uint16Array(unpacked(part.raw)), part.low, part.step);
function decoded(part) {
  const raw = unpacked(part.faces);
  const levels = Object.fromEntries(Object.entries(part.levels).map(([name, text]) => [name, new Uint8Array(unpacked(text))]));
  return { positions: placeOf(part.place), canonical: placeOf(part.canonical), faces: Uint32Array.from(part.wide ? new Uint32Array(raw) : new Uint16Array(raw)), levels };
}
const KINDS = {
  distance: { scale: "error", unit: "mm from the registered template", open: true },
  error: { scale: "error", unit: "mm true error", open: true },
  moved: { scale: "error", unit: "mm from the first to the second", open: true },
  confidence: { scale: "confidence", unit: "confidence", open: false },
  region: {}, "canonical grid": {},
};
function shades(mesh, kind) {
  const out = new Uint8Array(mesh.positions.length);
  if (kind === "region") {
    const colours = Object.fromEntries(Object.values(page.regions).map(r => [r[0], r.slice(1)]));
    mesh.levels.region.forEach((label, k) => out.set(label ? colours[label] : UNKNOWN, 3 * k));
    return out;
  }
  if (kind === "canonical grid") {
    out.fill(222);
    if (mesh.levels.confidence) mesh.levels.confidence.forEach((level, k) => { if (level === 255) out.fill(110, 3 * k, 3 * k + 3); });
    return out;
  }
  return mesh.levels[kind] ? levelled(mesh.levels[kind], page.scales[KINDS[kind].scale]) : out.fill(200);
}
function legendOf(kind) {
  const about = KINDS[kind];
  if (about.scale) return ramp(page.scales[about.scale], 0, about.open ? page.limits[kind] : 1, about.unit, about.open);
  if (kind === "region") return make("span", {}, Object.entries(page.regions).filter(r => r[1][0]).map(([name, r]) =>
    make("span", { style: "margin-right:12px;white-space:nowrap;display:inline-block" }, make("span", { class: "swatch", style: `background:rgb(${r.slice(1).join(",")})` }), name)));
  return make("span", { text: "Lines every 10 mm of canonical x (blue) and y (red), every fifth broader: they run over the same features of both." });
}
const orbit = new Orbit();
let drawing = null; // made once: a browser keeps few canvases of this kind
// `meshes` promises two lists of { title, positions, canonical, faces, levels, centre, radius }: what either side can show.
function pairView(meshes) {
  if (!drawing) {
    drawing = { refused: "", canvases: ["left", "right"].map(side => make("canvas", { tabindex: "0", role: "img", "aria-label": side + " view: drag or arrow keys turn, wheel or plus and minus zoom, 0 resets" })) };
    drawing.views = drawing.canvases.map(canvas => new MeshView(canvas, orbit, text => { drawing.refused = text; }));
  }
  orbit.reset();
  const titles = [0, 1].map(() => make("figcaption")), legend = make("p", { class: "soft" }), note = make("p", { class: "soft" });
  const group = label => make("div", { class: "row", role: "group", "aria-label": label });
  const buttons = group("colour"), sides = [group("left view"), group("right view")];
  const box = make("section", {}, make("h2", { text: "In three dimensions" }), buttons, ...sides,
    make("div", { class: "views" }, drawing.canvases.map((canvas, k) => make("figure", {}, titles[k], canvas))), legend, note,
    make("p", { class: "soft", text: "Drag turns both, the wheel or two fingers zoom, shift-drag moves; arrow keys, plus, minus and 0 do the same." }));
  meshes.then(choices => {
    note.textContent = drawing.refused;
    const levels = new Set(choices.flat().flatMap(mesh => Object.keys(mesh.levels)));
    const kinds = Object.keys(KINDS).filter(kind => kind === "canonical grid" || levels.has(kind)), shown = choices.map(list => list[0]);
    let kind = kinds[0];
    function update() {
      shown.forEach((mesh, k) => {
        if (!mesh) return;
        drawing.views[k].show({ ...mesh, colours: shades(mesh, kind), grid: kind === "canonical grid" });
        titles[k].textContent = mesh.title + (mesh.levels[kind] || kind === "canonical grid" ? ": " + kind : "");
      });
      legend.replaceChildren(legendOf(kind));
      for (const b of buttons.children) b.setAttribute("aria-pressed", b.textContent === kind);
      sides.forEach((side, k) => { for (const b of side.children) b.setAttribute("aria-pressed", b.textContent === shown[k].title); });
    }
    buttons.append(...kinds.map(k => make("button", { text: k, onclick: () => { kind = k; update(); } })), make("button", { text: "reset view", onclick: () => orbit.reset() }));
    choices.forEach((list, k) => { if (list.length > 1) sides[k].append(...list.map(mesh => make("button", { text: mesh.title, onclick: () => { shown[k] = mesh; update(); } }))); });
    drawing.canvases.forEach((canvas, k) => { canvas.parentElement.hidden = !shown[k]; });
    update();
  }).catch(error => { note.textContent = error.message; });
  return box;
}
