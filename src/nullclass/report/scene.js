// A cube of cells to turn and cut, drawn on a canvas from the run lengths in the options.
"use strict";
for (const scene of document.querySelectorAll(".scene")) {
  const canvas = scene.querySelector("canvas"), caption = scene.querySelector("output");
  const [model, along] = scene.querySelectorAll("select");
  const cut = scene.querySelector("input[type=range]");
  const boxes = [...scene.querySelectorAll("input[type=checkbox]")];
  const side = Number(cut.max), step = [side * side, side, 1];
  const light = [0.84, 0.7, 1];
  const shades = boxes.map(box => light.map(by => "rgb(" + [1, 3, 5].map(
    at => Math.round(parseInt(box.value.slice(at, at + 2), 16) * by)) + ")"));
  let turn = 0.66, tilt = 0.42, waiting = false, cells = [], faces = [];

  // Runs of one answer: 4 length + answer, in base 128, lowest digit first.
  function unpack(text) {
    const found = new Uint8Array(side ** 3);
    let at = 0, number = 0, scale = 1;
    for (const letter of atob(text)) {
      const byte = letter.charCodeAt(0);
      number += (byte & 127) * scale;
      scale *= 128;
      if (byte > 127) continue;
      found.fill(number % 4, at, at += Math.floor(number / 4));
      number = 0;
      scale = 1;
    }
    return found;
  }

  // For every cell six bits: which of its faces no other shown cell hides.
  function expose() {
    const isShown = new Uint8Array(cells.length), counts = boxes.map(() => 0);
    cells.forEach((answer, at) => {
      counts[answer] += 1;
      const place = Math.floor(at / step[along.value]) % side;
      isShown[at] = boxes[answer].checked && place < Number(cut.value) ? 1 : 0;
    });
    faces = new Uint8Array(cells.length);
    for (let at = 0; at < cells.length; at++) for (let axis = 0; axis < 3; axis++) {
      if (!isShown[at]) break;
      const place = Math.floor(at / step[axis]) % side;
      if (place === 0 || !isShown[at - step[axis]]) faces[at] |= 1 << 2 * axis;
      if (place === side - 1 || !isShown[at + step[axis]]) faces[at] |= 2 << 2 * axis;
    }
    caption.value = model.selectedOptions[0].text + ": " + boxes.map((box, answer) =>
      box.parentNode.textContent.trim() + " " + (100 * counts[answer] / cells.length).toFixed(1)
      + " %").join(", ") + " of the cube" + (Number(cut.value) < side ? "; shown where "
      + along.selectedOptions[0].text + " is at most "
      + ((cut.value - 1) / (side - 1)).toFixed(2) : "");
    redraw();
  }

  function redraw() {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }

  function draw() {
    waiting = false;
    const wide = canvas.clientWidth, high = canvas.clientHeight, dense = devicePixelRatio || 1;
    canvas.width = wide * dense;
    canvas.height = high * dense;
    const pen = canvas.getContext("2d"), size = 0.54 * Math.min(wide, high);
    pen.scale(dense, dense);
    const [ct, st, ce, se] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
    const towards = [ce * ct, ce * st, se];  // from the cube to the eye
    const across = [-st * size, ct * size, 0], down = [se * ct * size, se * st * size, -ce * size];
    const project = p => [0, 1].map(i => (i ? high : wide) / 2
      + p.reduce((sum, pixel, axis) => sum + (pixel - 0.5) * (i ? down : across)[axis], 0));
    const edges = [];
    for (let axis = 0; axis < 3; axis++) for (const u of [0, 1]) for (const v of [0, 1]) {
      const [b, c] = [(axis + 1) % 3, (axis + 2) % 3], from = [0, 0, 0];
      [from[b], from[c]] = [u, v];
      const to = [...from];
      to[axis] = 1;
      const near = (u === Number(towards[b] > 0)) + (v === Number(towards[c] > 0));
      edges.push({axis, near, from: project(from), to: project(to)});
    }
    const line = edge => {
      pen.beginPath();
      pen.moveTo(...edge.from);
      pen.lineTo(...edge.to);
      pen.stroke();
    };
    pen.lineWidth = 1;
    pen.strokeStyle = "#c4c8cc";
    edges.forEach(line);
    // Cells from the far corner to the near one, so that what is nearer is painted over.
    const [xs, ys, zs] = towards.map(by =>
      [...Array(side).keys()].map(n => by > 0 ? n : side - 1 - n));
    const visible = towards.reduce((bits, by, axis) => bits | (by > 0 ? 2 : 1) << 2 * axis, 0);
    // Where the n-th plane between cells lies on the screen: the three axes' parts add up.
    const planes = Array.from({length: side + 1}, (_, n) =>
      Math.min(1, Math.max(0, (n - 0.5) / (side - 1))) - 0.5);
    const [rightwards, downwards] = [across, down].map(way =>
      way.map(by => planes.map(place => place * by)));
    const corners = [[0, 0], [1, 0], [1, 1], [0, 1]], p = [0, 0, 0];
    pen.lineWidth = 1;
    pen.lineJoin = "round";
    for (const x of xs) for (const y of ys) for (const z of zs) {
      const at = x * step[0] + y * step[1] + z, bits = faces[at] & visible;
      if (bits) for (let axis = 0; axis < 3; axis++) if (bits >> 2 * axis & 3) {
        const b = (axis + 1) % 3, c = (axis + 2) % 3, cell = [x, y, z];
        p[axis] = cell[axis] + (towards[axis] > 0 ? 1 : 0);
        pen.beginPath();
        for (const [u, v] of corners) {
          p[b] = cell[b] + u;
          p[c] = cell[c] + v;
          pen.lineTo(wide / 2 + rightwards[0][p[0]] + rightwards[1][p[1]] + rightwards[2][p[2]],
            high / 2 + downwards[0][p[0]] + downwards[1][p[1]] + downwards[2][p[2]]);
        }
        pen.closePath();
        pen.fillStyle = pen.strokeStyle = shades[cells[at]][axis];
        pen.fill();
        pen.stroke();  // else the ground shines through between two faces
      }
    }
    pen.lineWidth = 1;
    pen.strokeStyle = "rgba(80, 86, 92, 0.45)";
    edges.filter(edge => edge.near === 2).forEach(line);
    pen.fillStyle = "#1d1f22";
    pen.font = "13px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (let axis = 0; axis < 3; axis++) {  // names at an outer edge, the lowest one
      const outer = edges.filter(edge => edge.axis === axis && edge.near === 1);
      const middle = edge => edge.from[1] + edge.to[1] - 0.01 * (edge.from[0] + edge.to[0]);
      const edge = outer.sort((one, other) => middle(other) - middle(one))[0];
      const mid = [0, 1].map(i => (edge.from[i] + edge.to[i]) / 2);
      const out = [mid[0] - wide / 2, mid[1] - high / 2], far = Math.hypot(...out) || 1;
      const write = (text, p, by) => pen.fillText(
        text, p[0] + out[0] / far * by, p[1] + out[1] / far * by);
      write(along.options[axis].text, mid, 34);
      write("0", edge.from, 12);
      write("1", edge.to, 12);
    }
  }

  function turned(sideways, upwards) {
    turn -= sideways;
    tilt = Math.max(-1.5, Math.min(1.5, tilt + upwards));
    redraw();
  }

  let last = null;
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    last = [event.clientX, event.clientY];
  });
  canvas.addEventListener("pointermove", event => {
    if (!last) return;
    turned((event.clientX - last[0]) / 120, (event.clientY - last[1]) / 120);
    last = [event.clientX, event.clientY];
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => last = null);
  canvas.addEventListener("keydown", event => {
    const by = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    if (!by[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    turned(by[event.key][0] / 10, by[event.key][1] / 10);
  });
  model.addEventListener("change", () => { cells = unpack(model.value); expose(); });
  for (const input of [along, cut, ...boxes]) input.addEventListener("input", expose);
  new ResizeObserver(redraw).observe(canvas);
  cells = unpack(model.value);
  expose();
}
