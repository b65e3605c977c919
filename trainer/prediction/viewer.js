const head = JSON.parse(document.getElementById("head").textContent);
const bytes = Uint8Array.from(atob(document.getElementById("body").textContent), c => c.charCodeAt(0)).buffer;
const by = id => document.getElementById(id), canvas = by("view"), over = by("over"), photo = by("photo");
const COLOURS = ["image", "canonical", "normal", "confidence", ...(head.truth ? ["error"] : [])], SHAPES = ["posed", "canonical"];
const TAIL = 12, PLATE = 0xff2e2e2e, FLAT_POINTS = 40000, PICK_PX = 14, SAME_MM = 5, PHOTO_PX = 520;
const state = { frame: 0, colour: "image", shape: "posed", tracks: true, size: 1, least: 0, playing: false, flat: false }, orbit = new Orbit();
for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
  if (typeof orbit[key] === "number") orbit[key] = Number(value) || 0;
  if (!(key in state)) continue;
  state[key] = typeof state[key] === "number" ? Number(value) || 0 :
    typeof state[key] === "boolean" ? value !== "0" : value;
}

// One frame's arrays as views into the decoded bytes; see viewer.py for the layout.
const frames = head.frames.map(f => {
  const n = f.points;
  let at = f.offset;
  const take = (kind, count) => { const view = new kind(bytes, at, count); at += view.byteLength; return view; };
  const own = { n, about: f, low: f.low, step: f.step, posed: take(Uint16Array, 3 * n), canonical: take(Uint16Array, 3 * n),
    image: take(Uint8Array, 3 * n), normal: take(Uint8Array, 3 * n), confidence: take(Uint8Array, n) };
  if (head.truth) { at = f.truth_offset; own.trueCanonical = take(Uint16Array, 3 * n); own.trueDepth = take(Uint16Array, n); }
  return own;
});
const tracks = { n: head.tracks.count, posed: new Float32Array(bytes, head.tracks.offset, head.tracks.count * frames.length * 3),
  canonical: new Float32Array(bytes, head.tracks.canonical_offset, head.tracks.count * 3) };
const metresOf = (raw, i, low, step) => [0, 1, 2].map(c => low[c] + step[c] * raw[3 * i + c]);
const worldOf = (frame, i) => metresOf(frame.posed, i, frame.low, frame.step);
const canonicalOf = (frame, i) => metresOf(frame.canonical, i, head.canonical_low, head.canonical_step);
// The true coordinate, null where it is not known: no coordinate is at the end of the range.
const trueOf = (frame, i) => head.truth && frame.trueCanonical[3 * i] !== 65535 ? metresOf(frame.trueCanonical, i, head.canonical_low, head.canonical_step) : null;
const gap = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
const logConfidence = level => head.confidence.low + level / 255 * (head.confidence.high - head.confidence.low);
// Where a camera sees a point of the world: column, row and depth.
function seenAt(frame, world) {
  const P = frame.about.camera, rows = [0, 1, 2].map(r => P[4 * r] * world[0] + P[4 * r + 1] * world[1] + P[4 * r + 2] * world[2] + P[4 * r + 3]);
  return [rows[0] / rows[2], rows[1] / rows[2], rows[2]];
}
// From a place's own axes to the screen's, which are x right, y down, z away.
const turned = (shape, x, y, z) => {
  const r = head.view[shape].attitude;
  return [r[0] * x + r[1] * y + r[2] * z, r[3] * x + r[4] * y + r[5] * z, r[6] * x + r[7] * y + r[8] * z];
};

function place(frame, shape) {
  const cache = frame.cache ??= {};
  if (cache[shape]) return cache[shape];
  const raw = frame[shape], out = new Float32Array(raw.length);
  const low = shape === "posed" ? frame.low : head.canonical_low, step = shape === "posed" ? frame.step : head.canonical_step;
  for (let i = 0; i < raw.length; i += 3) {
    const at = turned(shape, low[0] + step[0] * raw[i], low[1] + step[1] * raw[i + 1], low[2] + step[2] * raw[i + 2]);
    out[i] = at[0]; out[i + 1] = at[1]; out[i + 2] = at[2];
  }
  for (const other of frames) if (other !== frame && frames.length > 30) other.cache = null;
  return cache[shape] = out;
}

function rgb(frame, which) {
  if (which === "image") return frame.image;
  if (which === "normal") return frame.normal;
  const cache = frame.shades ??= {};
  if (cache[which]) return cache[which];
  const out = new Uint8Array(3 * frame.n);
  if (which === "canonical") {
    for (let i = 0; i < out.length; i++) {
      const metres = head.canonical_low[i % 3] + head.canonical_step[i % 3] * frame.canonical[i];
      out[i] = Math.max(0, Math.min(255, 127.5 * ((metres - head.centre[i % 3]) / head.half_extent + 1)));
    }
  } else if (which === "error") {
    for (let i = 0; i < frame.n; i++) {
      const truth = trueOf(frame, i), stops = head.error.colours;
      const k = truth && Math.min(stops.length - 1, Math.round(1000 * gap(truth, canonicalOf(frame, i)) / head.error.limit_mm * (stops.length - 1)));
      out.set(truth ? stops[k] : [150, 153, 160], 3 * i);
    }
  } else for (let i = 0; i < frame.n; i++) for (let c = 0; c < 3; c++) out[3 * i + c] = head.confidence.colours[3 * frame.confidence[i] + c];
  return cache[which] = out;
}
// What is drawn: those points that are sure enough.
const drawnPoints = frame => {
  if (frame.kept && frame.keptLeast === state.least) return frame.kept;
  frame.keptLeast = state.least;
  return frame.kept = Uint32Array.from({ length: frame.n }, (_, i) => i).filter(i => frame.confidence[i] >= state.least);
};
const spacingOf = frame => Math.sqrt(3 / Math.max(frame.n, 1)) * head.view[state.shape].radius;

// WebGL where there is any; else points are drawn one by one, fewer of them.
let solid = null, pen = null, picture = null, pixels = null, depthBuffer = null;
if (!state.flat) { solid = new MeshView(canvas, orbit, () => { solid = null; state.flat = true; }, pickAt); if (!solid.gl) solid = null; }
if (!solid) { state.flat = true; pen = canvas.getContext("2d"); orbit.attach(canvas, pickAt); }
document.documentElement.dataset.drawn = state.flat ? "flat" : "webgl";
const ratioNow = () => Math.min(window.devicePixelRatio || 1, state.flat ? 1.5 : 2);

let handed = "";
function draw() {
  const ratio = ratioNow(), width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (!width || !height) return;
  if (over.width !== width || over.height !== height) { over.width = width; over.height = height; }
  const frame = frames[state.frame], project = projection(width, height, ratio);
  if (solid) hand(frame, width, height); else splat(frame, width, height, project);
  const marks = over.getContext("2d");
  marks.clearRect(0, 0, width, height);
  if (state.tracks) drawTracks(marks, project, ratio);
  drawPicked(marks, project, ratio);
  scaleBar(project.focal / (4 * head.view[state.shape].radius) / ratio);
  by("time").value = state.frame;
  by("name").textContent = `${state.frame + 1} / ${frames.length}  ${head.frames[state.frame].name}`;
  drawPhoto();
}
// The same as the vertex shader of mesh_view.js computes.
function projection(width, height, ratio) {
  const view = head.view[state.shape], cy = Math.cos(orbit.yaw), sy = Math.sin(-orbit.yaw), cp = Math.cos(orbit.pitch), sp = Math.sin(orbit.pitch);
  const focal = 1.6 * Math.min(width, height) * orbit.zoom, distance = 4 * view.radius, [ox, oy, oz] = turned(state.shape, ...view.centre);
  const midX = width / 2 + orbit.panX * ratio, midY = height / 2 + orbit.panY * ratio;
  const project = (x, y, z) => {
    x -= ox; y -= oy; z -= oz;
    const a = cy * x - sy * z, b = sy * x + cy * z, c = cp * y - sp * b, d = sp * y + cp * b + distance;
    return [midX + focal * a / d, midY + focal * c / d, d];
  };
  project.focal = focal;
  return project;
}
function hand(frame, width, height) {
  const key = [state.frame, state.shape, state.colour, state.least].join();
  const view = head.view[state.shape], dot = 1.3 * state.size * spacingOf(frame) / view.radius * 1.6 * Math.min(width, height) * orbit.zoom;
  if (key === handed) { solid.mesh.dot = dot; solid.draw(); return; }
  handed = key;
  const kept = drawnPoints(frame), points = place(frame, state.shape), shades = rgb(frame, state.colour);
  const positions = new Float32Array(3 * kept.length), colours = new Uint8Array(3 * kept.length);
  kept.forEach((i, k) => {
    // The shader's y is up and its z towards the eye.
    positions[3 * k] = points[3 * i]; positions[3 * k + 1] = -points[3 * i + 1]; positions[3 * k + 2] = -points[3 * i + 2];
    for (let c = 0; c < 3; c++) colours[3 * k + c] = shades[3 * i + c];
  });
  const [x, y, z] = turned(state.shape, ...view.centre);
  solid.show({ positions, colours, faces: new Uint32Array(0), centre: [x, -y, -z], radius: view.radius, dot });
  solid.draw();
}
function splat(frame, width, height, project) {
  if (canvas.width !== width || canvas.height !== height || !picture) {
    canvas.width = width; canvas.height = height;
    picture = pen.createImageData(width, height);
    pixels = new Uint32Array(picture.data.buffer);
    depthBuffer = new Float32Array(width * height);
  }
  pixels.fill(PLATE); depthBuffer.fill(Infinity);
  const kept = drawnPoints(frame), points = place(frame, state.shape), shades = rgb(frame, state.colour), radius = head.view[state.shape].radius;
  const every = Math.ceil(kept.length / FLAT_POINTS) || 1, spacing = spacingOf(frame) * Math.sqrt(every);
  for (let k = 0; k < kept.length; k += every) {
    const i = kept[k], [x, y, d] = project(points[3 * i], points[3 * i + 1], points[3 * i + 2]);
    if (d < 0.05 * radius) continue;
    const side = Math.max(1, Math.min(24, Math.round(1.3 * state.size * spacing * project.focal / d)));
    const left = Math.round(x - side / 2), top = Math.round(y - side / 2);
    const shade = 0xff000000 | shades[3 * i + 2] << 16 | shades[3 * i + 1] << 8 | shades[3 * i];
    for (let v = Math.max(top, 0); v < Math.min(top + side, height); v++) {
      for (let u = Math.max(left, 0), at = v * width + u; u < Math.min(left + side, width); u++, at++) {
        if (d < depthBuffer[at]) { depthBuffer[at] = d; pixels[at] = shade; }
      }
    }
  }
  pen.putImageData(picture, 0, 0);
}

function drawTracks(marks, project, ratio) {
  marks.lineWidth = 1.5 * ratio; marks.lineJoin = "round";
  for (let t = 0; t < tracks.n; t++) {
    const [r, g, b] = head.tracks.colours[t];
    marks.strokeStyle = marks.fillStyle = `rgb(${r},${g},${b})`;
    let last = null;
    if (state.shape === "canonical") {
      last = project(...turned("canonical", ...tracks.canonical.slice(3 * t, 3 * t + 3)));
      if (Number.isNaN(tracks.posed[3 * (state.frame * tracks.n + t)])) continue;
    } else {
      marks.beginPath();
      for (let f = Math.max(0, state.frame - TAIL); f <= state.frame; f++) {
        const at = 3 * (f * tracks.n + t), xyz = tracks.posed.slice(at, at + 3), before = last;
        last = Number.isNaN(xyz[0]) ? null : project(...turned("posed", ...xyz));
        if (last && before) marks.lineTo(last[0], last[1]); else if (last) marks.moveTo(last[0], last[1]);
      }
      marks.stroke();
    }
    if (!last) continue;
    marks.beginPath(); marks.arc(last[0], last[1], 3 * ratio, 0, 7); marks.fill();
    marks.strokeStyle = "#000"; marks.lineWidth = ratio; marks.stroke(); marks.lineWidth = 1.5 * ratio;
  }
}

// A picked point is a canonical coordinate: in every frame it is the nearest point to it.
let picked = null, cross = null;
function pick(frame, i) { picked = i === null ? null : canonicalOf(frame, i); redraw(); tell(); }
function pickAt(event) {
  const box = canvas.getBoundingClientRect(), ratio = ratioNow();
  nearestOnScreen((event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio);
}
function nearestOnScreen(x, y) {
  const ratio = ratioNow(), frame = frames[state.frame], points = place(frame, state.shape), reach = PICK_PX * ratio;
  const project = projection(Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio), ratio);
  let best = null, front = Infinity;
  // Of what lies under the finger the nearest to the eye, beside it less and less.
  for (const i of drawnPoints(frame)) {
    const [u, v, d] = project(points[3 * i], points[3 * i + 1], points[3 * i + 2]), away = Math.hypot(u - x, v - y);
    const cost = d + 0.02 * head.view[state.shape].radius * away / ratio;
    if (away < reach && cost < front) { front = cost; best = i; }
  }
  pick(frame, best);
}
function nearestInImage(column, row) {
  const frame = frames[state.frame];
  let best = null, least = 4;
  for (let i = 0; i < frame.n; i++) { const [u, v] = seenAt(frame, worldOf(frame, i)), away = Math.hypot(u - column, v - row); if (away < least) { least = away; best = i; } }
  pick(frame, best);
}
function foundIn(frame) {
  if (!picked) return null;
  let best = null, least = Infinity;
  for (let i = 0; i < frame.n; i++) { const away = gap(canonicalOf(frame, i), picked); if (away < least) { least = away; best = i; } }
  return best !== null && 1000 * least <= SAME_MM ? best : null;
}
function drawPicked(marks, project, ratio) {
  const frame = frames[state.frame], i = foundIn(frame);
  if (i === null) return;
  const points = place(frame, state.shape), [x, y] = project(points[3 * i], points[3 * i + 1], points[3 * i + 2]);
  ring(marks, x, y, 7 * ratio, ratio);
}
function ring(marks, x, y, radius, ratio) {
  for (const [colour, wide] of [["#000", 5], ["#fff", 2]]) { marks.beginPath(); marks.arc(x, y, radius, 0, 7); marks.strokeStyle = colour; marks.lineWidth = wide * ratio; marks.stroke(); }
}
const mm = place => place.map(v => (1000 * v).toFixed(1)).join(", ");
function tell() {
  const frame = frames[state.frame], i = foundIn(frame), box = by("point");
  if (!picked) { box.replaceChildren(text("p", "None is picked.")); return; }
  if (i === null) { box.replaceChildren(text("p", `Not seen in this frame: no point within ${SAME_MM} mm of canonical ${mm(picked)} mm.`)); return; }
  const world = worldOf(frame, i), [column, row, depth] = seenAt(frame, world), canonical = canonicalOf(frame, i), truth = trueOf(frame, i);
  const c = Math.exp(logConfidence(frame.confidence[i])), ends = { 0: "≤ ", 255: "≥ " }[frame.confidence[i]] || "";
  const rows = [["canonical", mm(canonical) + " mm"], ["depth", depth.toFixed(4) + " m"], ["confidence", ends + c.toPrecision(2)], ["pixel", `${Math.floor(column)}, ${Math.floor(row)}`], ["in the world", mm(world) + " mm"]];
  if (head.truth) {
    const d = frame.trueDepth[i] / 10000;
    rows.push(["true canonical", truth ? mm(truth) + " mm" : "not known"]);
    if (truth) rows.push(["canonical error", (1000 * gap(truth, canonical)).toFixed(1) + " mm"]);
    rows.push(["depth error", d ? (1000 * (depth - d)).toFixed(1) + " mm" : "no surface there"]);
  }
  const list = document.createElement("dl");
  for (const [name, value] of rows) { const line = document.createElement("div"); line.append(text("dt", name), text("dd", value)); list.append(line); }
  box.replaceChildren(list);
}
function text(tag, value) { const element = document.createElement(tag); element.textContent = value; if (tag === "p") element.className = "dim"; return element; }

// The frame's image beside the cloud.
const shown = new Map();
function drawPhoto() {
  const about = head.frames[state.frame], side = head.side, pad = photo.getContext("2d");
  if (photo.width !== PHOTO_PX) photo.width = photo.height = PHOTO_PX;
  pad.setTransform(PHOTO_PX / side, 0, 0, PHOTO_PX / side, 0, 0);
  pad.imageSmoothingEnabled = side > PHOTO_PX;
  let image = shown.get(state.frame);
  if (!image) { image = new Image(); image.onload = drawPhoto; shown.set(state.frame, image); image.src = about.image; }
  pad.fillStyle = "#2e2e2e"; pad.fillRect(0, 0, side, side);
  if (image.complete) pad.drawImage(image, 0, 0, side, side);
  const frame = frames[state.frame], i = foundIn(frame), unit = side / 120;
  if (i !== null) { const [u, v] = seenAt(frame, worldOf(frame, i)); ring(pad, u, v, 3.5 * unit, unit / 2); }
  if (cross && document.activeElement === photo) {
    pad.strokeStyle = "#7cb7ff"; pad.lineWidth = unit / 2; pad.beginPath();
    pad.moveTo(cross[0] - 4 * unit, cross[1]); pad.lineTo(cross[0] + 4 * unit, cross[1]); pad.moveTo(cross[0], cross[1] - 4 * unit); pad.lineTo(cross[0], cross[1] + 4 * unit); pad.stroke();
  }
}
photo.onclick = e => { const box = photo.getBoundingClientRect(); nearestInImage((e.clientX - box.left) / box.width * head.side, (e.clientY - box.top) / box.height * head.side); };
photo.onkeydown = e => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, step = (e.shiftKey ? 10 : 2) * head.side / 120;
  cross ??= [head.side / 2, head.side / 2];
  if (e.key in steps) cross = cross.map((v, k) => Math.max(0, Math.min(head.side - 1, v + step * steps[e.key][k])));
  else if (e.key === "Enter") nearestInImage(...cross);
  else return;
  e.preventDefault(); e.stopPropagation(); drawPhoto();
};
photo.onfocus = photo.onblur = () => drawPhoto();

// A bar of a round length, as long as it is at the middle of the cloud; and what the colours mean.
function scaleBar(pixelsAMetre) {
  const length = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].filter(l => l / 1000 * pixelsAMetre < 150).pop(), bar = by("scale");
  bar.hidden = !length; // nothing round is so short
  bar.firstElementChild.textContent = `${length} mm`;
  bar.lastElementChild.style.width = `${(length || 0) / 1000 * pixelsAMetre}px`;
}
function legend() {
  const box = by("legend"), c = head.confidence, few = x => Math.exp(x).toPrecision(2);
  const words = { canonical: "canonical x, y, z from −1 to 1 as red, green, blue", normal: "normal: right, up, towards the camera as red, green, blue" };
  box.textContent = words[state.colour] ?? "";
  const ramp = colours => { const bar = document.createElement("i"); bar.style.background = `linear-gradient(90deg,${colours.join(",")})`; return bar; };
  if (state.colour === "error") box.append("canonical error 0", ramp(head.error.colours.map(k => `rgb(${k.join(",")})`)), `≥\u00a0${head.error.limit_mm}\u00a0mm, grey: not known`);
  if (state.colour !== "confidence") return;
  const colours = [];
  for (let k = 0; k < 256; k += 15) colours.push(`rgb(${c.colours.slice(3 * k, 3 * k + 3).join(",")})`);
  box.append(`confidence ≤\u00a0${few(c.low)}`, ramp(colours), `≥\u00a0${few(c.high)}`);
}
let wanted = false;
function redraw() { if (!wanted) { wanted = true; requestAnimationFrame(() => { wanted = false; draw(); }); } }
function step(to) { state.frame = to; redraw(); if (picked) tell(); }
function choices(id, names, key) {
  const box = by(id);
  for (const name of names) {
    const button = document.createElement("button");
    button.textContent = name;
    button.onclick = () => { state[key] = name; press(); legend(); redraw(); };
    box.append(button);
  }
  if (!names.includes(state[key])) state[key] = names[0];
  const press = () => box.querySelectorAll("button").forEach(b => b.setAttribute("aria-pressed", b.textContent === state[key]));
  press();
}
choices("colour", COLOURS, "colour"); choices("shape", SHAPES, "shape");
by("tracks").onclick = () => { state.tracks = !state.tracks; by("tracks").setAttribute("aria-pressed", state.tracks); redraw(); };
by("tracks").setAttribute("aria-pressed", state.tracks);
if (!tracks.n) by("tracks").parentElement.hidden = true;
by("size").oninput = e => { state.size = Number(e.target.value); redraw(); };
by("least").oninput = e => { state.least = Number(e.target.value); redraw(); };
by("reset").onclick = () => orbit.reset();
by("time").max = frames.length - 1;
by("time").oninput = e => step(Number(e.target.value));
if (matchMedia("(max-width: 700px)").matches) by("options").open = false;
state.frame = Math.max(0, Math.min(frames.length - 1, state.frame));
if (frames.length < 2) document.querySelector("footer button").hidden = by("time").hidden = true;
let due = 0;
function tick(now) {
  if (!state.playing) return;
  if (now >= due) { due = now + 1000 / head.rate; step((state.frame + 1) % frames.length); }
  requestAnimationFrame(tick);
}
function play(on) {
  state.playing = on;
  by("play").textContent = on ? "pause" : "play"; by("play").setAttribute("aria-pressed", on);
  if (on) requestAnimationFrame(tick);
}
by("play").onclick = () => play(!state.playing);
canvas.addEventListener("keydown", e => {
  if (e.key !== "Enter") return;
  const ratio = ratioNow();
  nearestOnScreen(canvas.clientWidth * ratio / 2, canvas.clientHeight * ratio / 2);
  e.preventDefault();
});
addEventListener("keydown", e => {
  if (["INPUT", "BUTTON", "SUMMARY"].includes(e.target.tagName)) return;
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  if (e.key === " ") { play(!state.playing); e.preventDefault(); }
  else if (e.key in steps) step((state.frame + steps[e.key] + frames.length) % frames.length);
});
orbit.views.push(redraw);
legend();
tell();
addEventListener("resize", redraw);
new ResizeObserver(redraw).observe(by("stage"));
play(state.playing && frames.length > 1);
redraw();
