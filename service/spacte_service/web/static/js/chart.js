// Line charts in SVG: axes, lines, bands and markers. Drawn anew on every update; a few hundred points at most.

import { s } from "./dom.js";

const EDGE = { left: 44, right: 12, top: 26, bottom: 38 };
const NARROW = 280;
const WIDE = 720;

/** As wide as its box, in the box's own pixels, so that text has the size that the sheet says. */
function size(box) {
  const width = Math.min(WIDE, Math.max(NARROW, box.clientWidth || 480));
  return [width, Math.round(Math.min(340, Math.max(180, 0.62 * width)))];
}

/** Round steps that cut [0, top] in four to eight. */
function ticks(top) {
  const rough = top / 5;
  const base = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * base).find((k) => k >= rough);
  const all = [];
  for (let at = 0; at <= top + step * 1e-6; at += step) all.push(at);
  return all;
}

const short = (x) =>
  x >= 1000 ? `${+(x / 1000).toPrecision(3)}k` : String(+x.toPrecision(3));

/**
 * Draw into `box`.
 * @param {HTMLElement} box
 * @param {{label: string, x: string, y: string, xTop: number, yTop: number,
 *   lines: {points: [number, number][], style: string, name?: string, value?: string, area?: boolean}[],
 *   bands?: {points: [number, number, number][], style: string}[],
 *   levels?: {y: number, style: string, name: string}[]}} what
 */
export function chart(box, what) {
  const [W, H] = size(box);
  const px = (x) => EDGE.left + (x / what.xTop) * (W - EDGE.left - EDGE.right);
  const py = (y) => H - EDGE.bottom - (y / what.yTop) * (H - EDGE.top - EDGE.bottom);
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
  const svg = s("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": what.label, xmlns: "http://www.w3.org/2000/svg" });
  for (const y of ticks(what.yTop)) {
    svg.append(s("line", { class: "axis", x1: EDGE.left, x2: W - EDGE.right, y1: py(y), y2: py(y) }));
    svg.append(s("text", { x: EDGE.left - 6, y: py(y) + 4, "text-anchor": "end" }, short(y)));
  }
  for (const x of ticks(what.xTop)) {
    svg.append(s("text", { x: px(x), y: H - EDGE.bottom + 16, "text-anchor": "middle" }, short(x)));
  }
  svg.append(s("text", { x: W - EDGE.right, y: H - 4, "text-anchor": "end" }, what.x));
  svg.append(s("text", { x: 4, y: 12 }, what.y));
  for (const band of what.bands ?? []) {
    const up = band.points.map(([x, , high]) => [x, high]);
    const down = band.points.map(([x, low]) => [x, low]).reverse();
    svg.append(s("path", { class: `band ${band.style}`, d: `${path([...up, ...down])}Z` }));
  }
  for (const level of what.levels ?? []) {
    if (level.y > what.yTop) continue;
    svg.append(s("line", { class: level.style, x1: EDGE.left, x2: W - EDGE.right, y1: py(level.y), y2: py(level.y) }));
    svg.append(s("text", { x: W - EDGE.right, y: py(level.y) - 5, "text-anchor": "end" }, level.name));
  }
  let row = 0;
  for (const line of what.lines) {
    const [first, last] = [line.points[0], line.points.at(-1)];
    if (line.area && last) {
      svg.append(s("path", { class: `area ${line.style}`, d: `${path([...line.points, [last[0], 0], [first[0], 0]])}Z` }));
    }
    if (last) svg.append(s("path", { class: `line ${line.style}`, d: path(line.points) }));
    for (const [x, y] of line.points.length <= 60 ? line.points : []) {
      svg.append(s("circle", { class: `dot ${line.style}`, cx: px(x), cy: py(y), r: 2.5 }));
    }
    if (line.value && last) {
      const late = px(last[0]) > W - EDGE.right - 60;
      svg.append(s("text", { class: "value", x: px(last[0]) + (late ? 0 : 8), y: py(last[1]) + (late ? 20 : 4), "text-anchor": late ? "end" : "start" }, line.value));
    }
    if (line.name) {
      const y = EDGE.top + 12 + 15 * row++;
      const right = W - EDGE.right;
      svg.append(s("text", { x: right - 24, y: y + 4, "text-anchor": "end" }, line.name));
      svg.append(s("line", { class: `line ${line.style}`, x1: right - 18, x2: right, y1: y, y2: y }));
    }
  }
  box.replaceChildren(svg);
  return svg;
}

/** The chart as a file of its own: computed colours are written into it, for it has no style sheet there. */
export function standalone(svg) {
  const copy = svg.cloneNode(true);
  const from = [svg, ...svg.querySelectorAll("*")];
  const to = [copy, ...copy.querySelectorAll("*")];
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size"]) {
      to[i].setAttribute(name, style.getPropertyValue(name));
    }
  });
  return new XMLSerializer().serializeToString(copy);
}
