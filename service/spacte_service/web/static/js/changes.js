// What a change of the model did to a job's certificates: of a job that names a base job.

import { getJson } from "./api.js";
import { $, h, tell } from "./dom.js";
import { radiusText, whole } from "./numbers.js";

const percent = (x) => `${(100 * x).toFixed(1)} %`;
const answer = (label, radius) => (label < 0 ? "abstained" : `class ${label} up to ${radiusText(radius, 3)}`);

/** Show it, or hide the card for a job without a base job. */
export async function showChanges(job) {
  const card = $("changes-card");
  card.hidden = true;
  if (!job.base_job) return;
  try {
    const { recertified } = await getJson(`/v1/jobs/${encodeURIComponent(job.id)}/summary`);
    if (!recertified) return; // no image is finished yet
    draw(recertified);
    card.hidden = false;
  } catch (problem) {
    tell(problem);
  }
}

function draw({ base_job, images, carried, votes, votes_from_scratch, compared, worse }) {
  $("changes-text").textContent =
    `Against ${base_job}: of ${whole(images)} certificates ${whole(carried)} were carried over and ` +
    `${whole(images - carried)} made anew, by ${whole(votes)} votes where the base job took ${whole(votes_from_scratch)}. ` +
    (worse.length ? `${whole(worse.length)} images got worse.` : "No image got worse.");
  const number = (x) => h("td", { class: "number" }, x);
  $("compared").tBodies[0].replaceChildren(...compared.map((pair) => h("tr", {},
    number(pair.radius.toFixed(2)), number(percent(pair.before)), number(percent(pair.after)), number(pair.p_value.toPrecision(2)))));
  $("worse").hidden = worse.length === 0;
  $("worse").tBodies[0].replaceChildren(...worse.map((image) => h("tr", {},
    number(String(image.index)), h("td", {}, answer(image.label_before, image.radius_before)),
    h("td", {}, answer(image.label, image.radius)))));
}
