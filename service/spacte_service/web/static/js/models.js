// The models: which answer, which do not and why, and what is known of the one chosen.

import { getJson } from "./api.js";
import { $, h, tell } from "./dom.js";
import { percent, whole } from "./numbers.js";

const POLL_MS = 3000; // while one is being loaded
const IDLE_MS = 15000; // else: rates change with the machine's load

/** Whether a model answers now, also while another version of it is being loaded. */
export const answers = (model) =>
  model.state === "ready" || (model.state === "loading" && !["", model.target_version].includes(model.version));

/** Keep the list of models up to date; `changed` gets all of them, at first and whenever they are looked at again. */
export async function followModels(changed) {
  let wait = IDLE_MS;
  try {
    const { data } = await getJson("/v1/models");
    changed(data);
    if (data.some((model) => model.state === "loading")) wait = POLL_MS;
  } catch (problem) {
    tell(problem);
    wait = POLL_MS;
  }
  setTimeout(() => followModels(changed), document.hidden ? 4 * wait : wait);
}

/** Fill a list to choose from: those that answer can be chosen, the others are there with their state. */
export function fillSelect(select, models) {
  const chosen = select.value;
  const order = [...models].sort((a, b) => answers(b) - answers(a));
  select.replaceChildren(...order.map((model) => answers(model)
    ? h("option", { value: model.name }, model.name)
    : h("option", { value: model.name, disabled: true }, `${model.name} (${model.state})`)));
  if (models.some((model) => model.name === chosen && answers(model))) select.value = chosen;
  else select.value = order.find(answers)?.name ?? "";
}

const howFar = ({ progress: at }) => at ? `Step ${at.number} of ${at.steps}: it ${at.doing}. ` : "";

/** Say of each model that does not answer why; of one whose new version failed, too. */
export function showUnserved(models) {
  const said = models.filter((model) => model.reason || !answers(model)).map((model) => {
    const why = model.reason ?? (model.state === "loading" ? `${howFar(model)}This page waits for it.` : "It was unloaded.");
    return h("li", { class: model.reason ? "failed" : "" }, h("b", {}, model.name), answers(model) ? " answers by its old version: " : `, ${model.state}: `, why);
  });
  $("unserved").replaceChildren(...said);
}

/** What is known of a model. */
export function showFacts(model) {
  const facts = {
    Trained: `${model.method} on ${model.dataset ?? "unknown data"}`,
    Network: `${model.arch}, ${model.heads} head${model.heads === 1 ? "" : "s"}`,
    Classes: whole(model.num_classes),
    Noise: `sigma ${model.sigmas.join(", ")}`,
    Input: model.input_shape.join(" × "),
    Accuracy: model.metrics?.noisy_accuracy === undefined ? null : `${percent(model.metrics.noisy_accuracy)} under noise`,
    Precision: model.precision,
    Pace: model.samples_per_second ? `${whole(model.samples_per_second)} noisy copies a second` : null,
    Diagnosis: diagnosis(model),
  };
  $("model-card").replaceChildren(
    ...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
}

/** What `spacte diagnose` found, in words; null where it was not asked. */
function diagnosis({ diagnosis: found, sigmas }) {
  if (!found) return null;
  const here = found.levels.find((level) => level.sigma === sigmas[0]);
  const kept = here ? `, ${percent(here.noisy_accuracy)} under noise` : "";
  return `${percent(found.clean_accuracy)} right on ${found.images} images of ${found.data}${kept}. ${found.advice.join(" ")}`;
}
