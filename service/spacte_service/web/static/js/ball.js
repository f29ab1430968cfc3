// The image in the middle of the ball that is proven: rings for the radius so far, the most that can be, and the target.

import { $, s } from "./dom.js";

const INNER = 60; // around the image, where the distance is 0
const OUTER = 95;

/** Draw the rings; `radius` is null before anything is asked, and `held` is an abstention. */
export function ball({ limit, target = null, radius = null, held = false }) {
  const most = Math.max(limit, target ?? 0, radius ?? 0) || 1;
  const at = (distance) => (INNER + ((OUTER - INNER) * distance) / most).toFixed(2);
  $("ball").classList.toggle("held", held);
  ring("all", OUTER + 3);
  ring("now", radius === null ? 0 : at(radius));
  ring("limit", at(limit));
  ring("goal", target ? at(target) : 0);
}

/** Rings stay, so that they can grow. */
function ring(name, r) {
  let circle = $("rings").querySelector(`.${name}`);
  if (!circle) $("rings").append((circle = s("circle", { class: name, cx: 100, cy: 100 })));
  circle.setAttribute("r", r);
}
