"use strict";
// Meshes in three dimensions, and how one turns them; several views may share one orbit and then turn together.
class Orbit {
  constructor() { this.views = []; this.reset(); }
  reset() { Object.assign(this, { yaw: 0, pitch: 0, zoom: 1, panX: 0, panY: 0 }); this.changed(); }
  changed() { for (const view of this.views) view(); }
  turn(dx, dy) { this.yaw -= dx * 0.008; this.pitch = Math.max(-1.5, Math.min(1.5, this.pitch + dy * 0.008)); this.changed(); }
  scale(factor) { this.zoom = Math.max(0.2, Math.min(20, this.zoom * factor)); this.changed(); }
  move(dx, dy) { this.panX += dx; this.panY += dy; this.changed(); }
  // Drag turns, two fingers or the wheel zoom, shift-drag moves; arrows, plus, minus and 0 do the same.
  attach(canvas, onTap) {
    const fingers = new Map();
    let travelled = 0;
    canvas.onpointerdown = e => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, e); canvas.focus(); travelled = 0; };
    canvas.onpointerup = canvas.onpointercancel = e => { fingers.delete(e.pointerId); if (onTap && travelled < 4 && e.type === "pointerup") onTap(e); };
    canvas.onpointermove = e => {
      const old = fingers.get(e.pointerId);
      if (!old) return;
      const dx = e.clientX - old.clientX, dy = e.clientY - old.clientY;
      travelled += Math.hypot(dx, dy);
      if (fingers.size === 2) {
        const other = [...fingers.values()].find(f => f.pointerId !== e.pointerId);
        const gap = f => Math.hypot(f.clientX - other.clientX, f.clientY - other.clientY);
        this.scale(gap(e) / Math.max(gap(old), 1));
      } else if (e.shiftKey || e.buttons & 2) this.move(dx, dy);
      else this.turn(dx, dy);
      fingers.set(e.pointerId, e);
    };
    canvas.oncontextmenu = e => e.preventDefault();
    canvas.addEventListener("wheel", e => { this.scale(Math.exp(-e.deltaY * 0.0012)); e.preventDefault(); }, { passive: false });
    canvas.addEventListener("keydown", e => {
      const turns = { ArrowLeft: [20, 0], ArrowRight: [-20, 0], ArrowUp: [0, -20], ArrowDown: [0, 20] };
      if (e.key in turns) this.turn(...turns[e.key]);
      else if (e.key === "+" || e.key === "=") this.scale(1.15);
      else if (e.key === "-") this.scale(1 / 1.15);
      else if (e.key === "0") this.reset();
      else return;
      e.preventDefault(); e.stopPropagation();
    });
  }
}
const VERTEX_SHADER = `#version 300 es
in vec3 place; in vec3 colour; in vec3 canonical;
uniform mat3 turn; uniform vec3 centre; uniform vec2 pan; uniform vec2 aspect; uniform float radius; uniform float zoom;
out vec3 seen; out vec3 shade; out vec3 mm;
void main() {
  vec3 p = turn * (place - centre) / radius;
  seen = p; shade = colour; mm = canonical;
  float away = 4.0 - p.z;
  gl_Position = vec4((p.xy * 3.2 * zoom) * aspect + pan * away, (away - 4.0) * 0.4 * away, away);
  gl_PointSize = 2.5;
}`;
const FRAGMENT_SHADER = `#version 300 es
precision highp float;
in vec3 seen; in vec3 shade; in vec3 mm; out vec4 pixel;
uniform float grid; uniform float points;
void main() {
  vec3 colour = shade;
  if (grid > 0.5) {
    vec2 at = mm.xy / 10.0, line = abs(at - round(at)) * 10.0;
    vec2 wide = vec2(mod(round(at.x), 5.0) == 0.0 ? 0.55 : 0.3, mod(round(at.y), 5.0) == 0.0 ? 0.55 : 0.3);
    if (line.y < wide.y) colour = vec3(0.85, 0.25, 0.20);
    if (line.x < wide.x) colour = vec3(0.10, 0.35, 0.75);
  }
  float light = 1.0;
  if (points < 0.5) light = 0.35 + 0.65 * abs(normalize(cross(dFdx(seen), dFdy(seen))).z);
  pixel = vec4(colour * light, 1.0);
}`;
class MeshView {
  // `refused` is called with a sentence where the browser cannot draw in three dimensions.
  constructor(canvas, orbit, refused) {
    this.canvas = canvas; this.orbit = orbit; this.mesh = null;
    const gl = this.gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
    if (!gl) { refused("This browser draws nothing in three dimensions (WebGL 2); the pictures show the same."); return; }
    const program = this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX_SHADER], [gl.FRAGMENT_SHADER, FRAGMENT_SHADER]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source); gl.compileShader(shader); gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    }
    gl.linkProgram(program); gl.useProgram(program); gl.enable(gl.DEPTH_TEST);
    this.buffers = {};
    orbit.views.push(this.redraw = () => this.ask());
    orbit.attach(canvas);
    new ResizeObserver(() => this.ask()).observe(canvas);
  }
  // positions and canonical: Float32Array (3 n), colours: Uint8Array (3 n), faces: Uint32Array (3 f) or empty for points.
  show(mesh) {
    this.mesh = mesh;
    const gl = this.gl;
    if (!gl) return;
    this.fill("place", mesh.positions, gl.FLOAT, false);
    this.fill("colour", mesh.colours, gl.UNSIGNED_BYTE, true);
    this.fill("canonical", mesh.canonical || mesh.positions, gl.FLOAT, false);
    const faces = this.buffers.faces ??= gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, faces);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.faces, gl.STATIC_DRAW);
    this.ask();
  }
  fill(name, values, kind, normalised) {
    const gl = this.gl, at = gl.getAttribLocation(this.program, name), buffer = this.buffers[name] ??= gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    if (at < 0) return;
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, 3, kind, normalised, 0, 0);
  }
  ask() { if (!this.asked) { this.asked = true; requestAnimationFrame(() => { this.asked = false; this.draw(); }); } }
  draw() {
    const gl = this.gl, mesh = this.mesh, canvas = this.canvas, o = this.orbit;
    if (!gl || !mesh || !canvas.clientWidth) return;
    const ratio = Math.min(devicePixelRatio || 1, 2), width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.18, 0.18, 0.18, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const set = (name, kind, ...values) => gl["uniform" + kind](gl.getUniformLocation(this.program, name), ...values);
    const cy = Math.cos(o.yaw), sy = Math.sin(-o.yaw), cp = Math.cos(o.pitch), sp = Math.sin(o.pitch);
    // Columns of Rx(pitch) Ry(yaw).
    gl.uniformMatrix3fv(gl.getUniformLocation(this.program, "turn"), false, [cy, sp * sy, -cp * sy, 0, cp, sp, sy, -sp * cy, cp * cy]);
    const small = Math.min(width, height);
    set("centre", "3f", ...mesh.centre); set("radius", "1f", mesh.radius); set("zoom", "1f", o.zoom);
    set("aspect", "2f", small / width, small / height);
    set("pan", "2f", 2 * o.panX * ratio / width, -2 * o.panY * ratio / height);
    set("grid", "1f", mesh.grid ? 1 : 0); set("points", "1f", mesh.faces.length ? 0 : 1);
    if (mesh.faces.length) gl.drawElements(gl.TRIANGLES, mesh.faces.length, gl.UNSIGNED_INT, 0);
    else gl.drawArrays(gl.POINTS, 0, mesh.positions.length / 3);
  }
}
// Numbers packed by datagen/audit/scan_view.py.
function unpacked(text) { return Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer; }
function placed(raw, low, step) {
  const out = new Float32Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = low[i % 3] + step[i % 3] * raw[i];
  return out;
}
// Colours of values 0 to 254, of 255 levels of a scale; 255 is unknown.
function levelled(levels, stops) {
  const out = new Uint8Array(3 * levels.length);
  for (let i = 0; i < levels.length; i++) {
    const colour = levels[i] === 255 ? [150, 153, 160] : stops[Math.round(levels[i] / 254 * (stops.length - 1))];
    out.set(colour, 3 * i);
  }
  return out;
}
