"use strict";
// How things in three dimensions are turned, the same way on every page; what hangs on it is told of each change.
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
