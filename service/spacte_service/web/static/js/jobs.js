// The page at /jobs: the table, the curves of the jobs that are ticked, and the images of one.

import { call, getJson } from "./api.js";
import { showChanges } from "./changes.js";
import { chart, standalone } from "./chart.js";
import { startChrome } from "./chrome.js";
import { $, h, save, tell } from "./dom.js";
import { JobRows } from "./rows.js";

const PAGE = 50;
const POLL_MS = 2000;
const MOST_CURVES = 5;
const ACTIVE = new Set(["queued", "running", "cancelling"]);

const jobs = new Map(); // id -> job, newest first
const ticked = new Set();
const rows = new JobRows();
let drawings = 0;

async function poll() {
  try {
    const page = await getJson(`/v1/jobs?limit=${PAGE}`);
    const older = [...jobs].filter(([id]) => !page.data.some((job) => job.id === id));
    jobs.clear();
    for (const job of page.data) jobs.set(job.id, job);
    for (const [id, job] of older) jobs.set(id, job);
    $("more").hidden = !page.has_more || older.length > 0;
    tell(null);
    drawTable();
    if ([...ticked].some((id) => ACTIVE.has(jobs.get(id)?.state))) await drawCurves();
  } catch (problem) {
    tell(problem);
  }
  setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}

async function more() {
  const last = [...jobs.keys()].at(-1);
  const page = await getJson(`/v1/jobs?limit=${PAGE}&after=${encodeURIComponent(last)}`);
  for (const job of page.data) jobs.set(job.id, job);
  $("more").hidden = !page.has_more;
  drawTable();
}

function drawTable() {
  $("no-jobs").hidden = jobs.size > 0;
  const body = $("jobs").tBodies[0];
  const focused = document.activeElement?.dataset?.of;
  body.replaceChildren(...[...jobs.values()].map(row));
  if (focused) body.querySelector(`[data-of="${CSS.escape(focused)}"]`)?.focus();
}

function row(job) {
  const { counts } = job;
  const done = counts.certified + counts.abstained + counts.errored;
  const tick = h("input", {
    type: "checkbox", checked: ticked.has(job.id), "data-of": `tick-${job.id}`, "aria-label": `Compare ${job.id}`,
    onchange: (event) => compare(job.id, event.target.checked),
  });
  const name = h("button", { type: "button", class: "quiet", "data-of": job.id, onclick: () => open(jobs.get(job.id)) },
    job.metadata?.name ?? job.id);
  const progress = h("progress", {
    max: counts.total ?? 1, value: counts.total === null ? null : done, "aria-label": `${done} of ${counts.total ?? "?"} images`,
  });
  const number = (x) => h("td", { class: "number" }, String(x));
  return h("tr", { "data-job": job.id },
    h("td", {}, tick), h("td", {}, name), h("td", {}, job.model),
    h("td", { title: job.error?.detail }, job.state),
    h("td", {}, progress, ` ${done}/${counts.total ?? "?"}`),
    number(counts.certified), number(counts.abstained), number(counts.errored),
    h("td", {}, new Date(job.created_at).toLocaleString()));
}

function open(job) {
  rows.open(job);
  showChanges(job);
}

async function compare(id, on) {
  if (on && ticked.size >= MOST_CURVES) {
    tell(new Error(`At most ${MOST_CURVES} jobs fit into one plot; untick one first.`));
    drawTable();
    return;
  }
  if (on) ticked.add(id);
  else ticked.delete(id);
  await drawCurves();
}

async function drawCurves() {
  const mine = ++drawings;
  $("compare").hidden = ticked.size === 0;
  if (ticked.size === 0) return;
  const summaries = await Promise.all(
    [...ticked].map(async (id) => [jobs.get(id), await getJson(`/v1/jobs/${encodeURIComponent(id)}/summary`)]),
  );
  if (mine !== drawings) return; // another tick came meanwhile, and its drawing has more to show
  const drawn = summaries.filter(([, summary]) => summary.certified_accuracy.length);
  const without = summaries.length - drawn.length;
  if (without) tell(new Error(`${without} of the ticked jobs have no true classes yet, so no accuracy to draw.`));
  const radii = drawn.flatMap(([, summary]) => summary.certified_accuracy.filter((a) => a.high > 0.001).map((a) => a.radius));
  chart($("accuracy"), {
    label: "Certified accuracy against radius",
    x: "L2 radius",
    y: "certified accuracy",
    xTop: Math.max(0.5, ...radii),
    yTop: 1,
    bands: drawn.map(([, summary], i) => ({
      style: `s${i}`, points: summary.certified_accuracy.map((a) => [a.radius, a.low, a.high]),
    })),
    lines: drawn.flatMap(([job, summary], i) => curves(job, summary, `s${i}`)),
  });
}

/** The curve of a job, and, broken, that of its base job. */
function curves(job, summary, style) {
  const points = (accuracies) => accuracies.map((a) => [a.radius, a.value]);
  const own = {
    style, points: points(summary.certified_accuracy), name: `${job.metadata?.name ?? job.model}: ACR ${summary.acr.toFixed(3)}`,
  };
  if (!summary.recertified?.certified_accuracy.length) return [own];
  return [own, { style: `${style} base`, points: points(summary.recertified.certified_accuracy), name: "before the change" }];
}

startChrome();
$("more").addEventListener("click", () => more().catch(tell));
$("save-svg").addEventListener("click", () =>
  save("certified-accuracy.svg", "image/svg+xml", standalone($("accuracy").firstChild)));
for (const [id, format, type] of [["get-ndjson", "ndjson", "application/x-ndjson"], ["get-tsv", "tsv", "text/tab-separated-values"]]) {
  $(id).addEventListener("click", async () => {
    try {
      const query = format === "tsv" ? "?format=tsv" : "";
      const answer = await call(`/v1/jobs/${encodeURIComponent(rows.job.id)}/results${query}`);
      save(`${rows.job.id}.${format}`, type, await answer.text());
    } catch (problem) {
      tell(problem);
    }
  });
}
poll();
