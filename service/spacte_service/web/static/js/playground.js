// The page at /: choose a model and an image, ask, and watch the proof grow.

import { events, ProblemError } from "./api.js";
import { params, ringsBefore, showEstimate, suitN, wireSliders } from "./asking.js";
import { startChrome } from "./chrome.js";
import { $, save, tell } from "./dom.js";
import { answers, fillSelect, followModels, showFacts, showUnserved } from "./models.js";
import { forgetInterval, showInterval, showSet } from "./more.js";
import { radiusText } from "./numbers.js";
import { learnPace } from "./pace.js";
import { moved, noisy, paint } from "./pictures.js";
import { emptyProof, Proof } from "./proof.js";
import { forgetImage, offerSamples, wireSource } from "./source.js";
import { state } from "./state.js";

const ROOMY = "(min-width: 58rem)"; // where the sliders stand beside the proof

// ---------------------------------------------------------------------------------------------- models

function models(all) {
  const before = state.model;
  state.models = all;
  if (state.abort !== null) return; // a proof is under way
  fillSelect($("model"), all);
  showUnserved(all);
  const now = all.find((model) => model.name === $("model").value && answers(model)) ?? null;
  if (now === null) {
    const waits = all.some((model) => model.state === "loading");
    $("answer").textContent = waits ? "A model is being loaded; this page waits for it." : "";
    if (!waits) tell(new Error(all.length
      ? "No model answers: what each lacks stands below."
      : "There is no model: put one into the folder that the service was started with."));
  } else if (now.name === before?.name && now.version === before.version) {
    state.model = now; // with its latest rate
    showEstimate();
  } else {
    if (before === null) tell(null);
    choose(now);
  }
}

function choose(model) {
  state.model = model;
  showFacts(model);
  suitN(model);
  forgetImage();
  reset();
  offerSamples();
}

/** Before a proof: what could be proven, and how long that takes. */
function reset() {
  if (state.model === null || state.abort !== null) return;
  showEstimate();
  const asked = params();
  ringsBefore(asked);
  state.proof = null;
  forgetInterval();
  emptyProof(state.model, asked);
}

// ---------------------------------------------------------------------------------------------- asking

/** What is sent: the file as it is. */
function upload(asked) {
  const body = new FormData();
  body.append("image", state.file, state.file.name);
  body.append("params", new Blob([JSON.stringify(asked)], { type: "application/json" }), "params.json");
  return body;
}

async function go() {
  const asked = params();
  const { model } = state;
  const began = performance.now();
  state.abort = new AbortController();
  $("go").disabled = true;
  $("go").hidden = true;
  $("stop").hidden = false;
  $("stop").focus({ preventScroll: true });
  tell(null);
  state.proof = new Proof(state.model, asked);
  forgetInterval();
  showSet(state.model, upload, asked);
  try {
    const options = { method: "POST", body: upload(asked), signal: state.abort.signal };
    for await (const { event, data } of events("/v1/certify/stream", options)) {
      if (event === "progress") state.proof.progress(data);
      if (event === "result") {
        state.proof.result(data);
        learnPace(model, data.n0 + data.n, (performance.now() - began) / 1000);
      }
      if (event === "error") throw new ProblemError(data.status, data);
    }
  } catch (problem) {
    const stopped = problem.name === "AbortError";
    if (stopped && state.proof.last) state.proof.result(state.proof.last);
    state.abort = null;
    if (!state.proof.certificate) reset();
    if (!stopped) tell(problem);
  } finally {
    state.abort = null;
    const kept = document.activeElement === $("stop");
    $("go").disabled = state.file === null;
    $("go").hidden = false;
    $("stop").hidden = true;
    showEstimate();
    if (kept) $("go").focus({ preventScroll: true });
  }
}

// ---------------------------------------------------------------------------------------------- afterwards

async function copy(text) {
  await navigator.clipboard.writeText(text);
  $("copied").textContent = "Copied";
  setTimeout(() => ($("copied").textContent = ""), 2000);
}

const curl = (asked) =>
  `curl -F image=@${state.file.name} -F params='${JSON.stringify(asked)}' ${location.origin}/v1/certify`;

function python(asked) {
  const set = Object.entries(asked).filter(([, v]) => v !== null)
    .map(([k, v]) => `${k}=${v === true ? "True" : JSON.stringify(v)}`).join(", ");
  return `from spacte_client import Client\n\nwith Client("${location.origin}") as client:\n` +
    `    certificate = client.certify("${state.file.name}", ${set})\n    print(certificate.label, certificate.radius)\n`;
}

function explain() {
  if (!$("meaning").open || !state.proof?.certificate || !state.values) return;
  const { radius, sigma } = state.proof.certificate;
  const shape = state.model.input_shape;
  paint($("mean-original"), state.values, shape);
  paint($("mean-moved"), moved(state.values, radius), shape);
  paint($("mean-noisy"), noisy(state.values, sigma), shape);
  $("mean-moved-caption").textContent = `Moved by exactly ${radiusText(radius, 4)}: as far as the proof reaches`;
  $("mean-noisy-caption").textContent = `A noisy copy, sigma ${sigma}, as the model saw them`;
  $("mean-text").textContent =
    `The length of a change is the root of the sum, over all pixels from 0 to 1, of the squared differences. ` +
    `Every image less than ${radiusText(radius, 4)} away from yours gets the same answer from the smoothed classifier.`;
}

function wireAfter() {
  $("download").addEventListener("click", () => {
    const { certificate } = state.proof;
    save(`${certificate.id}.json`, "application/json", JSON.stringify(certificate, null, 2));
  });
  $("attack").addEventListener("click", () => showInterval(upload, state.proof.params));
  $("copy-curl").addEventListener("click", () => copy(curl(state.proof.params)));
  $("copy-python").addEventListener("click", () => copy(python(state.proof.params)));
  $("meaning").addEventListener("toggle", explain);
  $("mean-again").addEventListener("click", explain);
}

startChrome();
wireSource(reset);
wireSliders(() => (state.proof ? showEstimate() : reset())); // a certificate stays until another one is asked for
wireAfter();
$("settings").open = $("facts").open = matchMedia(ROOMY).matches;
$("model").addEventListener("change", () => choose(state.models.find((m) => m.name === $("model").value)));
$("class-search").addEventListener("input", () => state.proof?.search());
$("go").addEventListener("click", go);
$("stop").addEventListener("click", () => state.abort?.abort());
addEventListener("resize", () => (state.proof ? state.proof.draw() : reset()));
followModels(models);
