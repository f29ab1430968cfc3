// The page at /jobs: a form for a new one, the table, the curves of the jobs that are ticked, and the images of one.

import { call, getJson } from "./api.js";
import { showChanges } from "./changes.js";
import { chart, standalone } from "./chart.js";
import { startChrome } from "./chrome.js";
import { $, save, tell } from "./dom.js";
import { ACTIVE, JobTable } from "./job_table.js";
import { followModels } from "./models.js";
import { NewJob } from "./new_job.js";
import { whole } from "./numbers.js";
import { JobRows } from "./rows.js";

const PAGE = 50;
const POLL_MS = 2000;
const MOST_CURVES = 5;

const jobs = new Map(); // id -> job, newest first
const ticked = new Set();
const rows = new JobRows();
const table = new JobTable({ open, compare, changed: look });
const form = new NewJob(made);
let drawings = 0;
let lost = false; // the service, at the last look
let opened = false; // the form, for want of jobs

async function look() {
  try {
    const page = await getJson(`/v1/jobs?limit=${PAGE}`);
    const older = [...jobs].filter(([id]) => !page.data.some((job) => job.id === id));
    jobs.clear();
    for (const job of page.data) jobs.set(job.id, job);
    for (const [id, job] of older) jobs.set(id, job);
    $("more").hidden = !page.has_more || older.length > 0;
    if (lost) tell(null);
    lost = false;
    drawTable();
    if ([...ticked].some((id) => ACTIVE.has(jobs.get(id)?.state))) await drawCurves();
    if (jobs.size === 0 && !opened) $("new").open = opened = true;
  } catch (problem) {
    lost = true;
    tell(problem);
  }
}

async function poll() {
  await look();
  setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}

async function more() {
  const last = [...jobs.keys()].at(-1);
  const page = await getJson(`/v1/jobs?limit=${PAGE}&after=${encodeURIComponent(last)}`);
  for (const job of page.data) jobs.set(job.id, job);
  $("more").hidden = !page.has_more;
  drawTable();
}

const drawTable = () => table.draw([...jobs.values()], ticked);

function open(id) {
  const job = jobs.get(id);
  rows.open(job);
  showChanges(job);
}

/** A job of this page's form is there: show it. */
function made(job) {
  const older = [...jobs];
  jobs.clear();
  for (const [id, each] of [[job.id, job], ...older]) jobs.set(id, each);
  drawTable();
  document.querySelector(`[data-of="${CSS.escape(job.id)}"]`)?.focus();
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
  $("brackets").textContent = drawn.map(([job, summary]) => bracketsText(job, summary)).filter(Boolean).join(" ");
}

/** What the attacks of a job found, in a sentence; nothing where it has none. */
function bracketsText(job, { brackets }) {
  if (!brackets) return "";
  const ratio = brackets.median_ratio === null ? "" : `, ${brackets.median_ratio.toFixed(2)} times the certified radius in the median`;
  return `${job.metadata?.name ?? job.model}: ${whole(brackets.images)} images attacked, ${whole(brackets.bounded)} with an upper bound${ratio}.`;
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
followModels((models) => {
  table.models = models;
  form.follow(models);
});
poll();
