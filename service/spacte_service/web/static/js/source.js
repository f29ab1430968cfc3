// The image: dropped, chosen, pasted, photographed, drawn, or one of the model's samples.

import { getJson } from "./api.js";
import { $, h, tell } from "./dom.js";
import { drawingPad } from "./pad.js";
import { npy, paint, pixels } from "./pictures.js";
import { state } from "./state.js";

const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
const ticks = () => [...$("changes").querySelectorAll("input")];

/** Forget the image: the model is another one. */
export function forgetImage() {
  state.file = state.values = null;
  $("changes").hidden = $("go").disabled = true;
  $("preview").getContext("2d").clearRect(0, 0, 168, 168);
  $("drop-hint").textContent = "Drop an image here, or paste one";
  $("draw").hidden = state.model.input_shape.join() !== "1,8,8";
  $("pad-box").hidden = true;
}

/** Show the samples of the model, and take the first one. */
export async function offerSamples() {
  const { name } = state.model;
  let samples = [];
  try {
    samples = (await getJson(`/v1/models/${encodeURIComponent(name)}/samples`)).data;
  } catch {
    samples = []; // the model's folder carries none
  }
  if (state.model.name !== name) return;
  $("samples-box").hidden = samples.length === 0;
  const buttons = samples.map((sample) => {
    const image = h("img", { alt: sample.label_name ?? `class ${sample.label}`, src: `data:image/png;base64,${sample.data}` });
    const take = () => {
      const file = new File([bytes(sample.data)], `${sample.name}.png`, { type: "image/png" });
      return useFile(file, { said: `A held-out image of class ${sample.label_name}`, sample: button });
    };
    const button = h("button", { type: "button", "aria-pressed": "false", onclick: take }, image);
    return { button, take };
  });
  $("samples").replaceChildren(...buttons.map(({ button }) => h("li", {}, button)));
  if (state.file === null && buttons.length) await buttons[0].take();
}

let changed = () => {};

/** Take an image; `values` are its pixels where the caller knows them, else the browser decodes them. */
async function useFile(file, { values = null, said = file?.name, sample = null } = {}) {
  if (!file || state.model === null) return;
  const { model } = state;
  tell(null);
  state.file = file;
  state.values = values;
  $("drop-hint").textContent = said;
  for (const button of $("samples").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === sample));
  $("changes").hidden = true;
  $("go").disabled = state.abort !== null;
  changed();
  const found = values ? null : await pixels(file, model.input_shape);
  if (state.file !== file || state.model !== model) return; // another one was taken meanwhile
  state.values = values ?? found?.values ?? null;
  if (!sample) offerChanges(found?.size);
  if (state.values) paint($("preview"), state.values, model.input_shape);
  else $("preview").getContext("2d").clearRect(0, 0, 168, 168); // a browser cannot show it
}

/** Ask what may be done to a picture of `size` [width, height]; ticked is what its size needs. Arrays have none. */
function offerChanges(size) {
  const [, height, width] = state.model.input_shape;
  $("changes").hidden = size === undefined;
  for (const box of ticks()) box.checked = false;
  if (size === undefined) return;
  const fits = size[0] === width && size[1] === height;
  const small = size[0] < width || size[1] < height;
  for (const box of ticks()) box.checked = !fits && (box.value === "resize" || (box.value === "enlarge" && small));
  const done = fits ? "It is taken as it is." : `It is scaled and cropped${small ? ", which enlarges it" : ""}, unless you untick that.`;
  $("changes-help").textContent =
    `The picture has ${size.join(" × ")} pixels, and the model takes ${width} × ${height}. ${done} ` +
    "The radius is about the pixels that the model gets.";
}

/** What the ticks ask for, as options of a request. */
export function askedChanges() {
  const ticked = $("changes").hidden ? [] : ticks().filter((box) => box.checked).map((box) => box.value);
  const asked = {};
  for (const name of ["resize", "enlarge"]) if (ticked.includes(name)) asked[name] = true;
  const convert = ticked.filter((name) => name !== "resize" && name !== "enlarge");
  if (convert.length) asked.convert = convert;
  return asked;
}

/** Wire all the ways that an image comes; `onChange` is called for each. */
export function wireSource(onChange) {
  changed = onChange;
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
  wirePad();
}

function wirePad() {
  const pad = drawingPad($("pad"));
  $("draw").addEventListener("click", () => {
    const open = $("pad-box").hidden;
    $("pad-box").hidden = !open;
    $("draw").setAttribute("aria-expanded", String(open));
    if (open) $("pad").focus();
  });
  $("pad-clear").addEventListener("click", pad.clear);
  $("pad-use").addEventListener("click", () => {
    const values = Float64Array.from(pad.values, Math.round);
    useFile(new File([npy(pad.values, [1, 8, 8])], "drawing.npy"), { values, said: "Your drawing" });
    $("pad-box").hidden = true;
    $("draw").setAttribute("aria-expanded", "false");
    $("go").focus({ preventScroll: true });
  });
}
