// What is asked: the three sliders, and how long the answer takes at the model's measured rate.

import { ball } from "./ball.js";
import { $ } from "./dom.js";
import { limitOf } from "./limits.js";
import { whole } from "./numbers.js";
import { estimate, secondsOf } from "./pace.js";
import { askedChanges } from "./source.js";
import { state } from "./state.js";

const sliders = {
  n: { value: (x) => Math.round(10 ** x), text: (v) => `${whole(v)} noisy copies` },
  alpha: { value: (x) => +(10 ** -x).toPrecision(1), text: (v) => `wrong at most once in ${whole(1 / v)}` },
  target: { value: (x) => (x > 0 ? x : null), text: (v) => (v === null ? "none, as far as it goes" : v.toFixed(2)) },
};

const PATIENCE_S = 20; // chosen: the first proof of a page
let touched = false; // the slider of the noises

const slider = (id) => sliders[id].value(Number($(id).value));

/** The options of the request. */
export function params() {
  const asked = { model: state.model.name, n: slider("n"), alpha: slider("alpha") };
  if (slider("target") !== null) asked.target_radius = slider("target");
  return { ...asked, ...askedChanges() };
}

/** So many noises as this model draws in a time that one likes to wait, unless the slider was moved. */
export function suitN(model) {
  if (touched) return;
  let at = Number($("n").getAttribute("value"));
  while (at > Number($("n").min) && secondsOf(model, sliders.n.value(at)) > PATIENCE_S) at -= Number($("n").step);
  $("n").value = String(at);
  $("n-out").textContent = sliders.n.text(slider("n"));
}

/** Say how long it takes. */
export function showEstimate() {
  const seconds = state.model && secondsOf(state.model, slider("n"));
  $("estimate").textContent = seconds === null
    ? "" : `takes ${slider("target") === null ? "" : "at most "}${estimate(seconds)} for ${whole(slider("n"))} noisy copies`;
}

/** Show what the sliders say, also in the rings; `changed` is called when one is moved. */
export function wireSliders(changed) {
  for (const [id, { text }] of Object.entries(sliders)) {
    const show = () => ($(`${id}-out`).textContent = text(slider(id)));
    $(id).addEventListener("input", () => {
      if (id === "n") touched = true;
      show();
      changed();
    });
    show();
  }
}

/** The rings before anything is asked. */
export function ringsBefore(asked) {
  ball({ limit: limitOf(state.model, asked), target: asked.target_radius });
}
