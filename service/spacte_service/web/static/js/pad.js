// A pad to draw a digit on: eight by eight squares with soft edges, by pointer or by keyboard.

const SIDE = 8;

/** Attach to a canvas; returns {values, clear}: values are [1, 8, 8] in 0..255. */
export function drawingPad(canvas) {
  const context = canvas.getContext("2d");
  const cell = canvas.width / SIDE;
  const values = new Float64Array(SIDE * SIDE);
  let cursor = [3, 3];
  let focused = false;

  const draw = () => {
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        const v = Math.round(values[y * SIDE + x]);
        context.fillStyle = `rgb(${v} ${v} ${v})`;
        context.fillRect(x * cell, y * cell, cell, cell);
      }
    }
    if (focused) {
      context.strokeStyle = "#2f7ed8";
      context.lineWidth = 2;
      context.strokeRect(cursor[0] * cell + 1, cursor[1] * cell + 1, cell - 2, cell - 2);
    }
  };

  /** Ink spreads from a point as from a round pen a little wider than a square. */
  const ink = (px, py) => {
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        const distance = Math.hypot(x + 0.5 - px, y + 0.5 - py);
        const strength = 255 * Math.max(0, Math.min(1, 1.25 - distance));
        values[y * SIDE + x] = Math.max(values[y * SIDE + x], strength);
      }
    }
    draw();
  };

  let last = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = at(event);
    ink(...last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const [x, y] = at(event);
    const steps = Math.ceil(Math.hypot(x - last[0], y - last[1]) * 4) || 1;
    for (let i = 1; i <= steps; i++) {
      ink(last[0] + ((x - last[0]) * i) / steps, last[1] + ((y - last[1]) * i) / steps);
    }
    last = [x, y];
  });
  const lift = () => (last = null);
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const [x, y] = cursor;
    if (arrows[event.key]) {
      const [dx, dy] = arrows[event.key];
      cursor = [Math.min(SIDE - 1, Math.max(0, x + dx)), Math.min(SIDE - 1, Math.max(0, y + dy))];
    } else if (event.key === " ") values[y * SIDE + x] = 255;
    else if (event.key === "Backspace") values[y * SIDE + x] = 0;
    else return;
    event.preventDefault();
    draw();
  });
  canvas.addEventListener("focus", () => ((focused = true), draw()));
  canvas.addEventListener("blur", () => ((focused = false), draw()));

  draw();
  return { values, clear: () => (values.fill(0), draw()) };
}
