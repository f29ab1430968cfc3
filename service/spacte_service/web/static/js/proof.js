// The proof as it grows: the answer in words, the radius against samples, the votes.

import { ball } from "./ball.js";
import { chart } from "./chart.js";
import { $, h } from "./dom.js";
import { limitOf } from "./limits.js";
import { duration, radiusText, whole } from "./numbers.js";

const SHOWN_CLASSES = 10;
const REASONS = {
  n_max: "all the noisy copies asked for were drawn",
  target: "the radius asked for is proven",
  futility: "the radius asked for is out of reach",
  unprovable: "the copies left could not prove the radius asked for any more",
  tolerance: "more copies would add next to nothing",
  deadline: "time was up",
  incorrect: "another class than the true one was chosen",
  cancelled: "it was stopped",
};

const className = (model, label) => model.class_names?.[label] ?? String(label);

const strong = (style, text) => h("span", { class: style }, text);

/** Say of a run that has not begun what it could prove at most. */
export function emptyProof(model, params) {
  clear(model);
  const limit = limitOf(model, params);
  $("answer").replaceChildren("Certify, and the radius that is proven grows here.",
    h("small", {}, `${whole(params.n)} noisy copies of the image can prove ${radiusText(limit, 3)} at most: when all vote alike.`));
  $("votes").replaceChildren(h("p", { class: "help" }, "Each noisy copy votes for one class."));
  curve(params, limit, []);
}

function clear(model) {
  $("after").hidden = $("meaning").hidden = true;
  $("meaning").open = false;
  $("votes").replaceChildren();
  $("spoken").textContent = "";
  const many = model.num_classes > SHOWN_CLASSES;
  $("class-search-box").hidden = !many;
  $("class-search").value = "";
  $("votes-of").textContent = many ? `: ${SHOWN_CLASSES} of ${whole(model.num_classes)} classes` : "";
}

function curve({ n, target_radius: target }, limit, points) {
  const last = points.at(-1)?.[1] ?? 0;
  chart($("curve"), {
    label: "Radius proven so far against noisy copies drawn",
    x: "noisy copies",
    y: "radius",
    xTop: n,
    yTop: Math.max(limit, target ?? 0, last) * 1.12 || 1,
    lines: [{ points, style: "s0", area: true, value: last > 0 ? radiusText(last, 3) : undefined }],
    levels: [
      { y: limit, style: "limit", name: `most that ${whole(n)} copies can prove` },
      ...(target ? [{ y: target, style: "goal", name: "target" }] : []),
    ],
  });
}

/** One run: feed it events, and it keeps the page up to date. */
export class Proof {
  constructor(model, params) {
    this.model = model;
    this.params = params;
    this.limit = limitOf(model, params);
    this.last = this.shown = null;
    this.certificate = null;
    this.points = [[0, 0]];
    this.started = performance.now();
    clear(model);
    $("answer").textContent = "Drawing noisy copies …";
    this.draw();
  }

  progress(event) {
    const samples = event.certificate?.n ?? event.samples; // what the radius rests on; more may have been drawn
    this.points.push([samples, event.radius]);
    const name = className(this.model, event.top_label);
    const eta = event.eta_ms ? `, ${duration(event.eta_ms / 1000)} to go` : "";
    $("answer").replaceChildren(
      ...(event.radius > 0
        ? [strong("good class", name), " proven within ", strong("good", radiusText(event.radius, 3))]
        : ["leaning to ", strong("good", name)]),
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
    const name = className(this.model, certificate.label);
    $("answer").replaceChildren(
      ...(certificate.abstained
        ? [strong("held", "No answer")]
        : [strong("good class", name), " within a radius of ", strong("good", radiusText(certificate.radius, 4))]),
      h("small", {}, certificate.abstained ? `${this.abstention()} ${why}` : why),
    );
    $("spoken").textContent = $("answer").innerText;
    this.votes(certificate);
    this.draw();
    $("after").hidden = $("meaning").hidden = false;
  }

  abstention() {
    const { counts, invalid, n } = this.certificate;
    const top = Math.max(...counts) / n;
    if (2 * invalid >= n) return `The model has no defined answer to ${whole(invalid)} of the copies; these vote for no class.`;
    return top > 0.5
      ? `The front runner got ${(100 * top).toFixed(1)} % of the votes, too close to a half to be sure: more noisy copies may settle it.`
      : `No class got more than half of the votes (the front runner ${(100 * top).toFixed(1)} %), so nothing can be proven about this image at this noise.`;
  }

  /** Draw the curve and the rings. */
  draw() {
    curve(this.params, this.limit, this.points);
    const held = this.certificate?.abstained ?? false;
    ball({ limit: this.limit, target: this.params.target_radius, radius: this.points.at(-1)[1], held });
  }

  /** The classes with most votes, among those whose names have what is searched for. */
  votes({ counts, invalid, label }) {
    this.shown = { counts, invalid, label };
    const wanted = $("class-search").value.trim().toLowerCase();
    const order = counts.map((count, c) => [count, c])
      .filter(([, c]) => className(this.model, c).toLowerCase().includes(wanted))
      .sort((a, b) => b[0] - a[0]).slice(0, SHOWN_CLASSES);
    const total = counts.reduce((a, b) => a + b, 0) || 1;
    const rows = order.map(([count, c]) => this.vote(c, count, total, c === label));
    $("votes").replaceChildren(
      ...rows,
      ...(invalid ? [h("small", {}, `${whole(invalid)} copies voted for no class: the model's answer was not a number.`)] : []),
      ...(order.length ? [] : [h("p", {}, "No class has a name like that.")]),
    );
  }

  vote(c, count, total, top) {
    const name = className(this.model, c);
    const length = h("span", { class: "length" });
    length.style.width = `${(100 * count) / total}%`; // the policy forbids a style attribute, not this
    return h("div", { class: top ? "vote top" : "vote" },
      h("span", { class: "name", title: name }, name),
      h("span", { class: "track", "aria-hidden": "true" }, length),
      h("span", { class: "count" }, whole(count)));
  }

  /** Show the votes anew, for what is searched for has changed. */
  search() {
    if (this.shown) this.votes(this.shown);
  }
}
