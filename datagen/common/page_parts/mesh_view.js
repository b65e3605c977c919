"use strict";
// Meshes in three dimensions; several views may share one orbit (orbit.js) and then turn together.
const VERTEX_SHADER = `#version 300 es
in vec3 place; in vec3 colour; in vec3 canonical;
uniform mat3 turn; uniform vec3 centre; uniform vec2 pan; uniform vec2 aspect; uniform float radius; uniform float zoom; uniform float dot_px;
out vec3 seen; out vec3 shade; out vec3 mm;
void main() {
  vec3 p = turn * (place - centre) / radius;
  seen = p; shade = colour; mm = canonical;
  float away = 4.0 - p.z;
  gl_Position = vec4((p.xy * 3.2 * zoom) * aspect + pan * away, (away - 4.0) * 0.4 * away, away);
  gl_PointSize = dot_px > 0.0 ? clamp(dot_px / away, 1.0, 24.0) : 2.5;
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
  // `refused` is called with a sentence where the browser cannot draw in three dimensions; `onTap` with a click.
  constructor(canvas, orbit, refused, onTap) {
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
    orbit.attach(canvas, onTap);
    new ResizeObserver(() => this.ask()).observe(canvas);
  }
  // positions and canonical: Float32Array (3 n), colours: Uint8Array (3 n), faces: Uint32Array (3 f) or empty for points,
  // whose side at the middle is then `dot` / 4 pixels.
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
    set("grid", "1f", mesh.grid ? 1 : 0); set("points", "1f", mesh.faces.length ? 0 : 1); set("dot_px", "1f", mesh.dot || 0);
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
