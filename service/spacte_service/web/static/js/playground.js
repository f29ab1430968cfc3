// The page at /: choose a model and an image, ask, and watch the proof grow.

import { events, getJson, ProblemError } from "./api.js";
import { startChrome } from "./chrome.js";
import { $, h, save, tell } from "./dom.js";
import { forgetInterval, showInterval, showSet } from "./more.js";
import { radiusText } from "./numbers.js";
import { drawingPad } from "./pad.js";
import { moved, noisy, npy, paint, pixels } from "./pictures.js";
import { Proof } from "./proof.js";

const state = { models: [], model: null, file: null, values: null, proof: null, abort: null };

// ---------------------------------------------------------------------------------------------- models

/** Whether a model answers now, also while another version of it is being loaded. */
const answers = (model) =>
  model.state === "ready" || (model.state === "loading" && model.version !== model.target_version);

async function loadModels() {
  try {
    const { data } = await getJson("/v1/models");
    state.models = data.filter(answers);
    tell(state.models.length ? null : new Error("No model is loaded: put one into the folder the service was started with."));
  } catch (problem) {
    tell(problem);
    return;
  }
  $("model").replaceChildren(...state.models.map((model) => h("option", { value: model.name }, model.name)));
  chooseModel(state.models[0] ?? null);
}

function chooseModel(model) {
  state.model = model;
  if (model === null) return;
  const percent = (x) => `${(100 * x).toFixed(1)} %`;
  const facts = {
    Trained: `${model.method} on ${model.dataset ?? "unknown data"}`,
    Network: `${model.arch}, ${model.heads} head${model.heads === 1 ? "" : "s"}`,
    Noise: `sigma ${model.sigmas.join(", ")}`,
    Input: model.input_shape.join(" × "),
    Accuracy: model.metrics?.noisy_accuracy === undefined ? null : `${percent(model.metrics.noisy_accuracy)} under noise`,
    Precision: model.precision,
    Diagnosis: diagnosis(model, percent),
  };
  $("model-card").replaceChildren(
    ...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
  $("draw").hidden = model.input_shape.join() !== "1,8,8";
  $("pad-box").hidden = true;
  forgetImage();
  loadSamples();
}

/** What `spacte diagnose` found, in words; null where it was not asked. */
function diagnosis({ diagnosis: found, sigmas }, percent) {
  if (!found) return null;
  const here = found.levels.find((level) => level.sigma === sigmas[0]);
  const kept = here ? `, ${percent(here.noisy_accuracy)} under noise` : "";
  return `${percent(found.clean_accuracy)} right on ${found.images} images of ${found.data}${kept}. ${found.advice.join(" ")}`;
}

async function loadSamples() {
  const { name } = state.model;
  let samples = [];
  try {
    samples = (await getJson(`/v1/models/${encodeURIComponent(name)}/samples`)).data;
  } catch {
    samples = []; // the model's folder carries none
  }
  if (state.model.name !== name) return;
  $("samples-box").hidden = samples.length === 0;
  $("samples").replaceChildren(
    ...samples.map((sample) => {
      const image = h("img", { alt: sample.label_name ?? `class ${sample.label}`, src: `data:image/png;base64,${sample.data}` });
      const choose = () => useFile(new File([bytes(sample.data)], `${sample.name}.png`, { type: "image/png" }));
      return h("li", {}, h("button", { type: "button", onclick: choose }, image));
    }),
  );
}

const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

// ---------------------------------------------------------------------------------------------- images

function forgetImage() {
  state.file = state.values = null;
  $("changes").hidden = $("go").disabled = true;
  $("preview").getContext("2d").clearRect(0, 0, 168, 168);
  $("drop-hint").textContent = "Drop an image here, or paste one";
}

/** Take an image; `values` are its pixels where the caller knows them, else the browser decodes them. */
async function useFile(file, values = null) {
  if (!file || state.model === null) return;
  tell(null);
  state.file = file;
  $("drop-hint").textContent = file.name;
  $("go").disabled = false;
  const found = values ? null : await pixels(file, state.model.input_shape);
  state.values = values ?? found?.values ?? null;
  offerChanges(found?.size);
  if (state.values) paint($("preview"), state.values, state.model.input_shape);
}

/** Ask what may be done to a picture; nothing is, unless it is ticked. `size` is [width, height], none for arrays. */
function offerChanges(size) {
  const [, height, width] = state.model.input_shape;
  $("changes").hidden = size === undefined;
  for (const box of ticks()) box.checked = false;
  if (size === undefined) return;
  $("changes-help").textContent =
    `The picture has ${size.join(" × ")} pixels, and the model takes ${width} × ${height}. ` +
    "The radius is about the pixels that the model gets. Nothing is changed unless you tick it.";
}

const ticks = () => [...$("changes").querySelectorAll("input")];

function wireImages() {
  const drop = $("drop");
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => (event.preventDefault(), drop.classList.add("over")));
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => (event.preventDefault(), useFile(event.dataTransfer.files[0])));
  document.addEventListener("paste", (event) => useFile(event.clipboardData?.files[0]));
  for (const id of ["file", "camera"]) {
    $(id).addEventListener("change", () => (useFile($(id).files[0]), ($(id).value = "")));
  }
  const pad = drawingPad($("pad"));
  $("draw").addEventListener("click", () => {
    $("pad-box").hidden = !$("pad-box").hidden;
    if (!$("pad-box").hidden) $("pad").focus();
  });
  $("pad-clear").addEventListener("click", pad.clear);
  $("pad-use").addEventListener("click", () =>
    useFile(new File([npy(pad.values, [1, 8, 8])], "drawing.npy"), Float64Array.from(pad.values, Math.round)));
}

// ---------------------------------------------------------------------------------------------- asking

const sliders = {
  n: { value: (x) => Math.round(10 ** x), text: (v) => `${v.toLocaleString("en")} noisy copies` },
  alpha: { value: (x) => +(10 ** -x).toPrecision(1), text: (v) => `wrong at most once in ${Math.round(1 / v).toLocaleString("en")}` },
  target: { value: (x) => (x > 0 ? x : null), text: (v) => (v === null ? "none, as far as it goes" : v.toFixed(2)) },
};

function slider(id) {
  return sliders[id].value(Number($(id).value));
}

function wireSliders() {
  for (const [id, { text }] of Object.entries(sliders)) {
    const show = () => ($(`${id}-out`).textContent = text(slider(id)));
    $(id).addEventListener("input", show);
    show();
  }
}

function params() {
  const asked = { model: state.model.name, n: slider("n"), alpha: slider("alpha") };
  if (slider("target") !== null) asked.target_radius = slider("target");
  const ticked = $("changes").hidden ? [] : ticks().filter((box) => box.checked).map((box) => box.value);
  for (const name of ["resize", "enlarge"]) if (ticked.includes(name)) asked[name] = true;
  const convert = ticked.filter((name) => name !== "resize" && name !== "enlarge");
  if (convert.length) asked.convert = convert;
  return asked;
}

/** What is sent: the file as it is. */
function upload(asked) {
  const body = new FormData();
  body.append("image", state.file, state.file.name);
  body.append("params", new Blob([JSON.stringify(asked)], { type: "application/json" }), "params.json");
  return body;
}

async function go() {
  const asked = params();
  state.abort = new AbortController();
  $("go").disabled = true;
  $("stop").hidden = false;
  tell(null);
  state.proof = new Proof(state.model, asked);
  forgetInterval();
  showSet(state.model, upload, asked);
  try {
    const options = { method: "POST", body: upload(asked), signal: state.abort.signal };
    for await (const { event, data } of events("/v1/certify/stream", options)) {
      if (event === "progress") state.proof.progress(data);
      if (event === "result") state.proof.result(data);
      if (event === "error") throw new ProblemError(data.status, data);
    }
  } catch (problem) {
    if (problem.name !== "AbortError") {
      $("proof").hidden = true;
      tell(problem);
    } else if (state.proof.last) state.proof.result(state.proof.last);
  } finally {
    $("go").disabled = state.file === null;
    $("stop").hidden = true;
  }
}

// ---------------------------------------------------------------------------------------------- afterwards

async function copy(text) {
  await navigator.clipboard.writeText(text);
  $("copied").textContent = "Copied";
  setTimeout(() => ($("copied").textContent = ""), 2000);
}

function wireAfter() {
  $("download").addEventListener("click", () => {
    const { certificate } = state.proof;
    save(`${certificate.id}.json`, "application/json", JSON.stringify(certificate, null, 2));
  });
  $("attack").addEventListener("click", () => showInterval(upload, state.proof.params));
  $("copy-curl").addEventListener("click", () =>
    copy(`curl -F image=@${state.file.name} -F params='${JSON.stringify(state.proof.params)}' ${location.origin}/v1/certify`));
  $("copy-python").addEventListener("click", () => {
    const { params: asked } = state.proof;
    const set = Object.entries(asked).filter(([, v]) => v !== null)
      .map(([k, v]) => `${k}=${v === true ? "True" : JSON.stringify(v)}`).join(", ");
    copy(`from spacte_client import Client\n\nwith Client("${location.origin}") as client:\n` +
      `    certificate = client.certify("${state.file.name}", ${set})\n    print(certificate.label, certificate.radius)\n`);
  });
  const explain = () => {
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
  };
  $("meaning").addEventListener("toggle", explain);
  $("mean-again").addEventListener("click", explain);
}

startChrome();
wireImages();
wireSliders();
wireAfter();
$("model").addEventListener("change", () => chooseModel(state.models.find((m) => m.name === $("model").value)));
$("class-search").addEventListener("input", () => state.proof?.search());
$("go").addEventListener("click", go);
$("stop").addEventListener("click", () => state.abort?.abort());
loadModels();
