// The images of one job: a table with thumbnails, sorted and filtered in the page.

import { call, lines } from "./api.js";
import { $, h, tell } from "./dom.js";
import { radiusText } from "./numbers.js";

const MOST_ROWS = 500;

const keep = {
  all: () => true,
  certified: (r) => r.outcome === "certified",
  wrong: (r) => r.outcome === "certified" && r.correct === false,
  abstained: (r) => r.outcome === "abstained",
  errored: (r) => r.outcome === "errored",
};

const columns = {
  index: (r) => r.index,
  label: (r) => r.true_label ?? -1,
  predict: (r) => r.label ?? -2,
  radius: (r) => r.radius ?? -1,
  n: (r) => r.n ?? 0,
};

export class JobRows {
  constructor() {
    this.job = null;
    this.records = [];
    this.key = "index";
    this.down = false;
    this.pictures = new IntersectionObserver((seen) => this.load(seen));
    $("filter").addEventListener("change", () => this.draw());
    for (const button of document.querySelectorAll(".sort")) {
      button.addEventListener("click", () => {
        this.down = this.key === button.dataset.key ? !this.down : false;
        this.key = button.dataset.key;
        this.draw();
      });
    }
  }

  async open(job) {
    this.job = job;
    this.records = [];
    $("rows-card").hidden = false;
    $("rows-job").textContent = job.metadata?.name ?? job.id;
    $("rows-card").scrollIntoView({ block: "nearest" });
    try {
      for await (const record of lines(`/v1/jobs/${encodeURIComponent(job.id)}/results`)) {
        if (this.job !== job) return;
        this.records.push(record);
        if (this.records.length % 100 === 0) this.draw();
      }
      this.draw();
    } catch (problem) {
      tell(problem);
    }
  }

  draw() {
    const by = columns[this.key];
    const shown = this.records.filter(keep[$("filter").value]).sort((a, b) => (by(a) - by(b)) * (this.down ? -1 : 1));
    for (const button of document.querySelectorAll(".sort")) {
      const here = button.dataset.key === this.key;
      button.closest("th").setAttribute("aria-sort", here ? (this.down ? "descending" : "ascending") : "none");
    }
    this.pictures.disconnect();
    const body = $("rows").tBodies[0];
    body.replaceChildren(...shown.slice(0, MOST_ROWS).map((record) => this.row(record)));
    if (shown.length > MOST_ROWS) {
      body.append(h("tr", {}, h("td", { colspan: 7 },
        `${MOST_ROWS} of ${shown.length} shown; filter, or download them all.`)));
    }
  }

  row(record) {
    const thumbnail = h("td", { "data-index": record.index });
    this.pictures.observe(thumbnail);
    const number = (x) => h("td", { class: "number" }, x === undefined || x === null ? "" : String(x));
    const answer = record.outcome === "errored" ? "" : record.abstained ? "abstained" : record.label_name ?? record.label;
    const remark = record.outcome === "errored" ? record.error.detail : record.correct === false && (!record.abstained || record.stop_reason === "incorrect") ? "wrong class" : "";
    const radius = typeof record.radius === "number" ? radiusText(record.radius, 4) : null;
    return h("tr", {},
      number(record.custom_id ?? record.index), thumbnail, number(record.true_label), h("td", {}, String(answer)),
      number(radius), number(record.n?.toLocaleString("en")), h("td", {}, remark));
  }

  /** Fetch the pictures of the rows in view. An image that cannot be had leaves its cell empty. */
  async load(seen) {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      this.pictures.unobserve(target);
      try {
        const path = `/v1/jobs/${encodeURIComponent(this.job.id)}/images/${target.dataset.index}`;
        const url = URL.createObjectURL(await (await call(path)).blob());
        target.replaceChildren(h("img", { src: url, alt: `image ${target.dataset.index}`, onload: () => URL.revokeObjectURL(url) }));
      } catch {
        target.textContent = "";
      }
    }
  }
}
