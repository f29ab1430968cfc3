// What both pages share: light and dark, the API key where one is asked for, and the cluster strip.

import { apiKey, call, getJson, ProblemError } from "./api.js";
import { $, h } from "./dom.js";
import { whole } from "./numbers.js";

const THEME = "spacte-theme";
const STRIP_MS = 2000;

export function startChrome() {
  theme();
  key();
  strip();
}

function theme() {
  const root = document.documentElement;
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem(THEME, root.dataset.theme);
  });
}

function key() {
  const input = h("input", { id: "key-input", type: "password", autocomplete: "off", spellcheck: "false" });
  const dialog = h("dialog", { id: "key-dialog", "aria-labelledby": "key-title" },
    h("form", { method: "dialog" },
      h("h2", { id: "key-title" }, "API key"),
      h("p", {}, "This service answers those who have a key. It is kept in this tab only, until the tab is closed."),
      h("label", { for: "key-input" }, "Key"),
      input,
      h("p", { class: "row" },
        h("button", { value: "save", class: "primary" }, "Use it"), h("button", { value: "forget" }, "Forget it"))));
  document.body.append(dialog);
  $("key-button").addEventListener("click", () => {
    input.value = apiKey.get() ?? "";
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "save") apiKey.set(input.value.trim());
    if (dialog.returnValue === "forget") apiKey.set(null);
    if (["save", "forget"].includes(dialog.returnValue)) location.reload();
  });
}

/** Show the button once the service asks for a key, and the dialog where it has none. */
function wantKey(refused) {
  const first = $("key-button").hidden;
  $("key-button").hidden = false;
  if (refused && first) $("key-button").click();
}

/** Samplers, noises a second and queue, from /v1/info and, where it is open to this caller, /metrics. */
function strip() {
  let before = null;
  let counted = true;
  const look = async () => {
    const parts = [];
    try {
      const info = await getJson("/v1/info");
      if (info.limits.api_key_needed) wantKey(false);
      show(info.samplers > 0);
      parts.push(`${info.samplers} sampler${info.samplers === 1 ? "" : "s"} on ${info.device}`);
      const now = counted ? await metrics() : null;
      counted = now !== null; // else served on a port of its own, or to administrators only
      if (before && now && now.time > before.time) {
        const rate = Math.max(0, (now.drawn - before.drawn) / (now.time - before.time));
        parts.push(`${whole(rate)} noises/s`);
        parts.push(`queue ${now.queue}`);
      }
      before = now;
    } catch (error) {
      show(false);
      counted = true;
      if (error instanceof ProblemError && error.status === 401) wantKey(true);
      parts.push(error.message);
    }
    $("cluster").textContent = parts.join(" · ");
    setTimeout(look, document.hidden ? 5 * STRIP_MS : STRIP_MS);
  };
  look();
}

function show(up) {
  $("cluster").classList.toggle("up", up);
  $("cluster").classList.toggle("down", !up);
}

async function metrics() {
  let text;
  try {
    text = await (await call("/metrics")).text();
  } catch {
    return null;
  }
  const sum = (name) =>
    text
      .split("\n")
      .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
      .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
  return { time: performance.now() / 1000, drawn: sum("spacte_samples_drawn_total"), queue: sum("spacte_queue_depth") };
}
