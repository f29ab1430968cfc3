// The proof as it grows: the answer in words, the radius against samples, the votes.

import { chart } from "./chart.js";
import { $, h } from "./dom.js";
import { radiusLimit } from "./limits.js";
import { radiusText, whole } from "./numbers.js";

const SHOWN_CLASSES = 10;
const REASONS = {
  n_max: "all the noisy copies asked for were drawn",
  target: "the radius asked for is proven",
  futility: "the radius asked for is out of reach",
  unprovable: "the copies left could not prove the radius asked for any more",
  tolerance: "more copies would add next to nothing",
  deadline: "time was up",
  cancelled: "it was stopped",
};

const className = (model, label) => model.class_names?.[label] ?? String(label);

/** One run: feed it events, and it keeps the page up to date. */
export class Proof {
  constructor(model, params) {
    this.model = model;
    this.params = params;
    this.last = this.shown = null;
    this.certificate = null;
    this.points = [[0, 0]];
    // A request that may stop early spends half of alpha on its last look.
    const alpha = params.target_radius ? params.alpha / 2 : params.alpha;
    this.limit = radiusLimit(model.sigmas[0], params.n, alpha);
    this.started = performance.now();
    $("proof").hidden = false;
    $("after").hidden = true;
    $("meaning").open = false;
    $("votes").replaceChildren();
    const many = model.num_classes > SHOWN_CLASSES;
    $("class-search-box").hidden = !many;
    $("class-search").value = "";
    $("votes-of").textContent = many ? `: ${SHOWN_CLASSES} of ${whole(model.num_classes)} classes` : "";
    $("answer").textContent = "Drawing noisy copies …";
    this.draw();
  }

  progress(event) {
    const samples = event.certificate?.n ?? event.samples; // what the radius rests on; more may have been drawn
    this.points.push([samples, event.radius]);
    const name = className(this.model, event.top_label);
    const eta = event.eta_ms ? `, about ${(event.eta_ms / 1000).toFixed(1)} s to go` : "";
    $("answer").replaceChildren(
      h("span", {}, event.radius > 0 ? `${name}, proven within ${radiusText(event.radius, 3)}` : `leaning to ${name}`),
      h("small", {}, `${whole(samples)} noisy copies so far${eta}`),
    );
    if (event.certificate) {
      this.last = event.certificate; // true also for whoever stops here
      this.votes(event.certificate);
    }
    this.draw();
  }

  result(certificate) {
    this.certificate = certificate;
    this.points.push([certificate.n, certificate.radius]);
    const seconds = ((performance.now() - this.started) / 1000).toFixed(2);
    const note = certificate.preprocessing?.note ? ` ${certificate.preprocessing.note}` : "";
    const why = `${whole(certificate.n)} noisy copies in ${seconds} s; it stopped because ${REASONS[certificate.stop_reason]}.${note}`;
    $("answer").replaceChildren(
      certificate.abstained
        ? h("span", { class: "held" }, "No answer")
        : h("span", {}, h("span", { class: "good" }, className(this.model, certificate.label)),
            ` within a radius of ${radiusText(certificate.radius, 4)}`),
      h("small", {}, certificate.abstained ? `${this.abstention()} ${why}` : why),
    );
    this.votes(certificate);
    this.draw();
    $("after").hidden = false;
  }

  abstention() {
    const { counts, invalid, n } = this.certificate;
    const top = Math.max(...counts) / n;
    if (2 * invalid >= n) return `The model has no defined answer to ${whole(invalid)} of the copies; these vote for no class.`;
    return top > 0.5
      ? `The front runner got ${(100 * top).toFixed(1)} % of the votes, too close to a half to be sure: more noisy copies may settle it.`
      : `No class got more than half of the votes (the front runner ${(100 * top).toFixed(1)} %), so nothing can be proven about this image at this noise.`;
  }

  draw() {
    const top = Math.max(this.limit, this.params.target_radius ?? 0) * 1.12;
    chart($("curve"), {
      label: "Radius proven so far against noisy copies drawn",
      x: "noisy copies",
      y: "radius",
      xTop: this.params.n,
      yTop: top || 1,
      lines: [{ points: this.points, style: "s0" }],
      levels: [
        { y: this.limit, style: "limit", name: `most that ${whole(this.params.n)} copies can prove` },
        ...(this.params.target_radius ? [{ y: this.params.target_radius, style: "goal", name: "target" }] : []),
      ],
    });
  }

  /** The classes with most votes, among those whose names have what is searched for. */
  votes({ counts, invalid, label }) {
    this.shown = { counts, invalid, label };
    const wanted = $("class-search").value.trim().toLowerCase();
    const order = counts.map((count, c) => [count, c])
      .filter(([, c]) => className(this.model, c).toLowerCase().includes(wanted))
      .sort((a, b) => b[0] - a[0]).slice(0, SHOWN_CLASSES);
    const total = counts.reduce((a, b) => a + b, 0) || 1;
    $("votes").replaceChildren(
      ...order.map(([count, c]) =>
        h("div", { class: c === label ? "vote top" : "vote" },
          h("span", {}, className(this.model, c)),
          h("meter", { min: 0, max: total, value: count, "aria-label": `votes for ${className(this.model, c)}` }),
          h("span", { class: "count" }, whole(count)))),
      ...(invalid ? [h("small", {}, `${whole(invalid)} copies voted for no class: the model's answer was not a number.`)] : []),
      ...(order.length ? [] : [h("p", {}, "No class has a name like that.")]),
    );
  }

  /** Show the votes anew, for what is searched for has changed. */
  search() {
    if (this.shown) this.votes(this.shown);
  }
}
