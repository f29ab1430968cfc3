// What else the same noises say, beside the proof: the classes that hold the true one, and the radius from above.

import { call } from "./api.js";
import { $, h, tell } from "./dom.js";
import { radiusText } from "./numbers.js";

const SET_ALPHA = 0.1;

/** Ask for the set of classes, which takes one noisy copy; the chips are there long before the proof is. */
export async function showSet(model, upload, asked) {
  $("set").hidden = true;
  if (!model.calibrated) return;
  const radius = asked.target_radius ?? model.sigmas[0] / 2;
  const { n, target_radius, alpha, ...changes } = asked; // the certificate's own
  try {
    const body = upload({ ...changes, alpha: SET_ALPHA, radius });
    const found = await (await call("/v1/sets", { method: "POST", body })).json();
    $("set-text").textContent =
      `For ${Math.round(100 * (1 - SET_ALPHA))} of 100 images the true class is among these, however they are changed within ` +
      `${radius.toFixed(2)}. That is about images like these on the whole, not about this one.`;
    $("chips").replaceChildren(...found.label_names.map((name) => h("li", {}, name)));
    $("set").hidden = false;
  } catch (problem) {
    if (problem.name !== "AbortError") tell(problem);
  }
}

/** Forget the interval of the image before. */
export function forgetInterval() {
  $("interval").hidden = true;
  $("attack").disabled = false;
}

/** Bracket the radius: a certificate from below, an attack from above. */
export async function showInterval(upload, asked) {
  $("attack").disabled = true;
  $("interval").hidden = false;
  $("interval").replaceChildren("Looking for the nearest image with another answer …");
  const { target_radius, ...options } = asked; // an interval has the best lower end that n gives
  try {
    const found = await (await call("/v1/brackets", { method: "POST", body: upload(options) })).json();
    $("interval").replaceChildren(...sentence(found));
  } catch (problem) {
    $("interval").hidden = true;
    tell(problem);
  } finally {
    $("attack").disabled = false;
  }
}

/** The interval in words, as what goes into the page. */
export function sentence({ lower, upper, adversarial, certificate }) {
  if (certificate.abstained) return ["Nothing is certified, so there is nothing to attack."];
  const from = radiusText(lower, 2);
  if (upper === null) return [`The answer holds up to ${from} at least; the attack found no image with another one.`];
  // Up, as a bound from above must not be shown smaller than it is.
  const to = (Math.ceil(100 * upper) / 100).toFixed(2);
  const picture = h("img", {
    src: `data:image/png;base64,${adversarial.data}`, alt: `An image ${to} away, answered by ${adversarial.label_name}`,
  });
  return [`The answer first changes between ${from} and ${to}: this image is that far away, and is answered `,
    h("b", {}, adversarial.label_name), ". ", picture];
}
