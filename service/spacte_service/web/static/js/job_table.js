// The table of jobs: a line a job, how long each still takes, and what can be done about it.

import { call } from "./api.js";
import { $, h, tell } from "./dom.js";
import { duration } from "./numbers.js";
import { secondsOf } from "./pace.js";

export const ACTIVE = new Set(["queued", "running", "stalled", "cancelling"]);
const CAN_CANCEL = new Set(["queued", "running", "stalled"]);
const CAN_RESUME = new Set(["failed", "cancelled", "interrupted"]);
const ENOUGH = 3; // images, until the pace seen here says more than the model's rate

/** The lines of all jobs; `open`, `compare` and `changed` are told what is pressed. */
export class JobTable {
  constructor({ open, compare, changed }) {
    this.open = open;
    this.compare = compare;
    this.changed = changed;
    this.models = [];
    this.seen = new Map(); // id -> when it was first seen running here, and how far it was
  }

  draw(jobs, ticked) {
    $("jobs-box").hidden = jobs.length === 0;
    $("no-jobs").hidden = jobs.length > 0;
    const body = $("jobs").tBodies[0];
    const focused = document.activeElement?.dataset?.of;
    body.replaceChildren(...jobs.map((job) => this.row(job, ticked.has(job.id))));
    if (focused) body.querySelector(`[data-of="${CSS.escape(focused)}"]`)?.focus();
  }

  row(job, ticked) {
    const { counts } = job;
    const done = counts.certified + counts.abstained + counts.errored;
    const title = job.metadata?.name ?? job.id;
    const tick = h("input", {
      type: "checkbox", checked: ticked, "data-of": `tick-${job.id}`, "aria-label": `Compare ${title}`,
      onchange: (event) => this.compare(job.id, event.target.checked),
    });
    const name = h("button", { type: "button", class: "link", "data-of": job.id, onclick: () => this.open(job.id) }, title);
    const progress = h("progress", {
      max: counts.total ?? 1, value: counts.total === null ? null : done, "aria-label": `${done} of ${counts.total ?? "?"} images`,
    });
    const number = (x, style = "") => h("td", { class: `number ${style}` }, String(x));
    const left = this.left(job, done);
    return h("tr", { "data-job": job.id },
      h("td", {}, tick), h("td", {}, name), h("td", { class: "wide" }, job.model),
      h("td", { title: job.error?.detail }, h("span", { class: `state ${job.state}` }, job.state)),
      h("td", {}, progress, ` ${done}/${counts.total ?? "?"}`, left ? h("small", {}, `${left} left`) : null),
      number(counts.certified), number(counts.abstained, "wide"), number(counts.errored, "wide"),
      h("td", { class: "wide" }, new Date(job.created_at).toLocaleString()), this.actions(job, title));
  }

  actions(job, title) {
    const button = (action, word) => h("button", {
      type: "button", "data-of": `${action}-${job.id}`, "aria-label": `${word} ${title}`, onclick: () => this.act(job, action),
    }, word);
    return h("td", { class: "actions" },
      CAN_CANCEL.has(job.state) ? button("cancel", "Cancel") : null, CAN_RESUME.has(job.state) ? button("resume", "Resume") : null);
  }

  async act(job, action) {
    try {
      await call(`/v1/jobs/${encodeURIComponent(job.id)}/${action}`, { method: "POST" });
      this.changed();
    } catch (problem) {
      tell(problem);
    }
  }

  /** About how long a running job still takes: by the pace seen here, before that by its model's rate. */
  left(job, done) {
    if (job.state !== "running" || job.counts.remaining === null) {
      this.seen.delete(job.id);
      return null;
    }
    const now = performance.now() / 1000;
    if (!this.seen.has(job.id)) this.seen.set(job.id, { done, since: now });
    const { done: before, since } = this.seen.get(job.id);
    if (done - before >= ENOUGH) return duration((job.counts.remaining * (now - since)) / (done - before));
    const model = this.models.find((known) => known.name === job.model);
    const seconds = secondsOf(model, job.params.n, job.counts.remaining, job.params.n0);
    return seconds === null ? null : duration(seconds);
  }
}
