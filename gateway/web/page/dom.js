// The few helpers that make elements. Texts are set as texts, never as HTML: names come from outside.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element; `attributes` may hold class, text, and any attribute. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((each) => each !== null && each !== undefined));
  return element;
}

/** Set the text only where it changes, so that a selection and a screen reader are not disturbed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
