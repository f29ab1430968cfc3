// The API's description as a page: a card for each route, then one for each kind of document.

import { startChrome } from "/web/js/chrome.js";
import { $, h, tell } from "/web/js/dom.js";

const anchor = (...parts) => parts.join("-").replace(/[^A-Za-z0-9]+/g, "-");
const nameOf = (reference) => reference.slice(reference.lastIndexOf("/") + 1);
const code = (text) => h("code", {}, text);

/** What kind of value a schema allows, with links to the kinds that have a card of their own. */
function kind(schema) {
  if (schema.$ref) return h("a", { href: `#${anchor("schema", nameOf(schema.$ref))}` }, nameOf(schema.$ref));
  const either = schema.anyOf ?? schema.oneOf;
  if (either) return h("span", {}, ...either.flatMap((each, i) => (i ? [" or ", kind(each)] : [kind(each)])));
  if (schema.enum) return h("span", {}, ...schema.enum.flatMap((each, i) => (i ? [", ", code(each)] : [code(each)])));
  if (schema.const !== undefined) return code(String(schema.const));
  if (schema.type === "array") return h("span", {}, "list of ", schema.items ? kind(schema.items) : "anything");
  return h("span", {}, [schema.type ?? "anything", schema.format && `(${schema.format})`].filter(Boolean).join(" "));
}

/** The bounds of a value and what it is where it is left out, in words. */
function limits(schema) {
  const bounds = [schema, ...(schema.anyOf ?? [])].flatMap((each) => [
    each.minimum !== undefined && `at least ${each.minimum.toLocaleString("en")}`,
    each.exclusiveMinimum !== undefined && `above ${each.exclusiveMinimum}`,
    each.maximum !== undefined && `at most ${each.maximum.toLocaleString("en")}`,
    each.exclusiveMaximum !== undefined && `below ${each.exclusiveMaximum}`,
  ]);
  const left = schema.default === undefined || schema.default === null ? [] : [`default ${JSON.stringify(schema.default)}`];
  return [...bounds.filter(Boolean), ...left].join(", ");
}

function table(headings, rows) {
  return h("div", { class: "scroll" },
    h("table", {},
      h("thead", {}, h("tr", {}, ...headings.map((heading) => h("th", { scope: "col" }, heading)))),
      h("tbody", {}, ...rows)));
}

/** The fields of an object, a row each. */
function fields(schema) {
  const needed = new Set(schema.required ?? []);
  return table(["Field", "Kind", "Limits", "What it is"], Object.entries(schema.properties).map(([name, field]) =>
    h("tr", {},
      h("th", { scope: "row" }, code(name), needed.has(name) ? " (needed)" : ""),
      h("td", { class: "told-cell" }, kind(field)),
      h("td", { class: "told-cell" }, limits(field)),
      h("td", { class: "told-cell" }, field.description ?? ""))));
}

function body(media) {
  return Object.entries(media).map(([type, { schema }]) =>
    h("div", {}, h("p", {}, "Body, ", code(type), ": ", schema.properties ? "" : kind(schema)),
      schema.properties ? fields(schema) : null));
}

function answers(responses) {
  return table(["Status", "Answer", "When"], Object.entries(responses).map(([status, response]) =>
    h("tr", {},
      h("th", { scope: "row" }, status),
      h("td", { class: "told-cell" }, ...Object.entries(response.content ?? {}).map(([type, { schema }]) =>
        h("div", {}, code(type), " ", schema && Object.keys(schema).length ? kind(schema) : ""))),
      h("td", { class: "told-cell" }, response.description))));
}

function route(verb, path, operation) {
  const parameters = (operation.parameters ?? []).map((parameter) =>
    h("tr", {},
      h("th", { scope: "row" }, code(parameter.name), parameter.required ? " (needed)" : ""),
      h("td", {}, parameter.in),
      h("td", { class: "told-cell" }, kind(parameter.schema)),
      h("td", { class: "told-cell" }, parameter.description ?? "")));
  return h("section", { class: "card route", id: anchor(verb, path) },
    h("h3", {}, h("span", { class: "verb" }, verb.toUpperCase()), " ", code(path)),
    h("p", { class: "told" }, operation.description ?? operation.summary ?? ""),
    parameters.length ? table(["Parameter", "In", "Kind", "What it is"], parameters) : null,
    ...body(operation.requestBody?.content ?? {}),
    h("details", {}, h("summary", {}, "Answers"), answers(operation.responses)));
}

async function draw() {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`The description cannot be read (${answer.status}); load the page again.`);
  const api = await answer.json();
  $("about").textContent = `${api.info.title} ${api.info.version}. ${api.info.description}`;
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [verb, operation] of Object.entries(operations)) {
      const link = h("a", { href: `#${anchor(verb, path)}` }, h("span", { class: "verb" }, verb.toUpperCase()), " ", path);
      $("contents").append(h("li", {}, link));
      $("routes").append(route(verb, path, operation));
    }
  }
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    $("schemas").append(h("section", { class: "card", id: anchor("schema", name) },
      h("h3", {}, name), h("p", { class: "told" }, schema.description ?? ""),
      schema.properties ? fields(schema) : h("p", {}, kind(schema))));
  }
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

startChrome();
draw().catch(tell);
