// A new job from the page: images of a data set that the service knows, or of a file that is uploaded.

import { call, getJson } from "./api.js";
import { $, h } from "./dom.js";
import { answers, fillSelect } from "./models.js";
import { whole } from "./numbers.js";
import { estimate, secondsOf } from "./pace.js";

const copies = () => Math.round(10 ** Number($("new-n").value));
const source = () => document.querySelector("#new-form [name=source]:checked").value;
const images = () => Number($("new-limit").value);

/** The form; `made` gets the job. */
export class NewJob {
  constructor(made) {
    this.made = made;
    this.models = [];
    this.limits = {};
    $("new-form").addEventListener("input", () => this.show());
    $("new-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.learn();
    this.show();
  }

  /** The data sets that may be named, and the largest upload. */
  async learn() {
    try {
      const { datasets, limits } = await getJson("/v1/info");
      this.limits = limits;
      $("new-dataset").replaceChildren(...datasets.map((name) => h("option", { value: name }, name)));
      this.suit();
      this.show();
    } catch (problem) {
      this.tell(problem); // the header asks for a key where one is needed
    }
  }

  follow(models) {
    const first = this.models.length === 0;
    this.models = models;
    fillSelect($("new-model"), models);
    if (first) this.suit();
    this.show();
  }

  /** To begin with, a model and the data set that it was trained on. */
  suit() {
    const names = [...$("new-dataset").options].map((option) => option.value);
    const fitting = this.models.find((model) => answers(model) && names.includes(model.dataset));
    if (!fitting) return;
    $("new-model").value = fitting.name;
    $("new-dataset").value = fitting.dataset;
  }

  show() {
    const file = source() === "file";
    for (const field of document.querySelectorAll("#new-form .of-file")) field.hidden = !file;
    for (const field of document.querySelectorAll("#new-form .of-dataset")) field.hidden = file;
    $("new-file").required = file;
    $("new-limit").disabled = file;
    $("new-n-out").textContent = `${whole(copies())} noisy copies an image`;
    const model = this.models.find((known) => known.name === $("new-model").value && answers(known));
    const seconds = secondsOf(model, copies(), file ? 1 : images() || 0);
    $("new-estimate").textContent = seconds === null ? "" : `takes ${estimate(seconds)}${file ? " an image" : ""}`;
    $("no-jobs-command").textContent =
      `spacte jobs submit ${$("new-dataset").value || "digits"} --limit 100 -n 1000 --base-url ${location.origin}`;
  }

  tell(problem) {
    $("new-problem").hidden = problem === null;
    $("new-problem").textContent = problem?.message ?? "";
  }

  async submit() {
    this.tell(null);
    $("new-go").disabled = true;
    try {
      const name = $("new-name").value.trim();
      const body = { model: $("new-model").value, input: await this.input(), params: { n: copies() }, ...(name && { metadata: { name } }) };
      const headers = { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) };
      const job = await (await call("/v1/jobs", { method: "POST", headers, body: JSON.stringify(body) })).json();
      $("spoken").textContent = `The job ${name || job.id} has started.`;
      this.made(job);
    } catch (problem) {
      this.tell(problem);
    } finally {
      $("new-go").disabled = false;
      this.show();
    }
  }

  /** The images as the request names them; a file is uploaded first. */
  async input() {
    if (source() === "dataset") return { type: "dataset", name: $("new-dataset").value, limit: images() };
    const [file] = $("new-file").files;
    const most = this.limits.max_upload_bytes;
    if (most && file.size > most) {
      throw new Error(`The file has ${whole(file.size)} bytes; this service takes ${whole(most)} at most: split it over several jobs.`);
    }
    $("new-estimate").textContent = `Uploading ${whole(Math.max(1, file.size / 1e6))} MB …`;
    const body = new FormData();
    body.append("file", file, file.name);
    const uploaded = await (await call("/v1/files", { method: "POST", body })).json();
    return { type: "file", file_id: uploaded.id };
  }
}
