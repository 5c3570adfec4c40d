// A board to paint on: two canvases, one over the other, and a brush for pointers and for the keyboard.

import { h, picture } from "./dom.js";

export class Board {
  /** A stroke paints in `color()` on the layer that `layer()` names, "sheet" or "veil", and then calls `onStroke`. */
  constructor(label, { layer, color, onStroke }) {
    this.sheet = picture(label, "sheet");
    this.veil = h("canvas", { class: "veil", width: 1, height: 1, "aria-hidden": "true" });
    this.ring = h("div", { class: "ring", hidden: true });
    this.element = h("div", { class: "board", tabindex: 0, role: "application",
      "aria-label": `${label}. Arrow keys move the brush, space paints.` }, this.sheet, this.veil, this.ring); // prettier-ignore
    this.size = 0.12; // the brush's diameter, as a share of the board's width
    const at = (event) => {
      const box = this.sheet.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    const stroke = (from, to) => {
      const canvas = this[layer()], context = canvas.getContext("2d"), { width, height } = canvas;
      Object.assign(context, { strokeStyle: color(), lineWidth: Math.max(1, this.size * width), lineCap: "round" });
      context.beginPath();
      context.moveTo(from[0] * width, from[1] * height);
      context.lineTo(to[0] * width, to[1] * height + 0.01); // a line of no length draws nothing
      context.stroke();
      onStroke();
    };

    let last;
    this.element.onpointerdown = (event) => {
      this.element.setPointerCapture(event.pointerId);
      last = at(event);
      stroke(last, last);
    };
    this.element.onpointermove = (event) => {
      const here = at(event);
      this.point(here);
      if (last) stroke(last, here);
      if (last) last = here;
    };
    this.element.onpointerup = this.element.onpointercancel = () => (last = null);
    this.element.onpointerleave = () => (this.ring.hidden = document.activeElement !== this.element);
    this.element.onfocus = () => this.point(this.place ?? [0.5, 0.5]);
    this.element.onblur = () => (this.ring.hidden = true);
    this.element.onkeydown = (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const from = this.place ?? [0.5, 0.5], to = from.map((value, i) => Math.min(1, Math.max(0, value + step[i] / 32)));
      this.point(to);
      if (event.key === " ") stroke(to, to);
    };
  }

  /** Shows the brush at a place, in shares of the board. */
  point(place) {
    this.place = place;
    this.ring.hidden = false;
    Object.assign(this.ring.style, { left: `${100 * place[0]}%`, top: `${100 * place[1]}%`, width: `${100 * this.size}%` });
  }

  /** Where the veil is painted: 1 or 0 for each of its pixels. */
  mask() {
    const { width, height } = this.veil, { data } = this.veil.getContext("2d").getImageData(0, 0, width, height);
    return Float32Array.from({ length: width * height }, (_, i) => Number(data[4 * i + 3] >= 128));
  }

  /** An unpainted veil of this size. */
  clear(width, height) {
    Object.assign(this.veil, { width, height });
  }
}
