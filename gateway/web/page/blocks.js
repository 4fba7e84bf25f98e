// What the pages of tables are built of.

import { make } from "./dom.js";

export const MARKS = { good: "✓", warn: "!", bad: "✕", off: "–" };

export const quiet = (text) => make("p", { class: "quiet", text });

export const section = (title, content) => make("section", { class: "block" }, make("h2", { text: title }), content);

/** The sentence at the head of a page: what is to be thought of all below it. */
export const verdict = (id, level, title, text) => make(
  "div", { class: `verdict ${level}`, id },
  make("span", { class: "mark", text: MARKS[level], "aria-hidden": "true" }),
  make("div", {}, make("h1", { text: title }), make("p", { text })),
);

/** Values with their names, side by side. */
export const tileList = (values) => make(
  "dl", { class: "tiles" }, ...values.map(([name, text]) => make("div", {}, make("dt", { text: name }), make("dd", { text }))),
);

/** A table that scrolls by itself; a cell is a text or an element. Without rows the sentence `nothing`. */
export function tableOf(heads, rows, nothing, kind = "") {
  if (!rows.length) return quiet(nothing);
  return make("div", { class: `scroll ${kind}`.trim(), tabindex: "0" }, make(
    "table", {},
    make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { text, scope: "col" })))),
    make("tbody", {}, ...rows.map(({ kind: level, cells }) => make("tr", { class: level }, ...cells.map(cell)))),
  ));
}

const cell = (content) => (content instanceof Node ? make("td", {}, content) : make("td", { text: content }));
