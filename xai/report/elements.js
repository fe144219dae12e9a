"use strict";

/** An HTML element with attributes and children. Strings become text nodes, so text from data stays text. */
function html(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function svg(name, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

/** Attributes whose names begin with "on" are listeners; null and false leave an attribute or a child out. */
function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== false));
  return node;
}

/** Radio buttons in a row; `pick` gets the option that was chosen. */
function choice(label, name, options, chosen, pick) {
  const buttons = options.map((option) =>
    html("label", {},
      html("input", { type: "radio", name, value: option, checked: option === chosen, onchange: () => pick(option) }),
      html("span", {}, option)));
  return html("fieldset", { class: "choice", role: "radiogroup", "aria-label": label }, buttons);
}

/** A checkbox that looks like a label; `toggle` gets whether it is on. */
function chip(content, on, toggle, listeners = {}) {
  const box = html("input", { type: "checkbox", checked: on, onchange: () => toggle(box.checked) });
  return html("label", { class: "chip", ...listeners }, box, content);
}

/** Of all values of a column as many decimals as its largest needs. */
function decimalsFor(values) {
  const known = values.filter((value) => value !== null);
  if (known.every(Number.isInteger)) return 0;
  const largest = Math.max(...known.map(Math.abs));
  return largest >= 100 ? 1 : largest >= 1 ? 2 : largest >= 0.1 ? 3 : 4;
}

function numeral(value, decimals) {
  return value === null ? "–" : value.toFixed(decimals).replace("-", "−");
}

/** "0.31 [0.28, 0.34]", without brackets where there is no interval. */
function withInterval({ mean, low, high }, decimals) {
  const ends = low === null || high === null ? "" : ` ${interval(low, high, decimals)}`;
  return numeral(mean, decimals) + ends;
}

function interval(low, high, decimals) {
  return `[${numeral(low, decimals)}, ${numeral(high, decimals)}]`;
}

/** From a range of numbers to pixels. */
function linear([from, to], [start, end]) {
  const width = to - from || 1;
  return (value) => start + ((value - from) / width) * (end - start);
}
