const PARTS = [
  ["explainer", null],
  ["baseline", "baselines: what any explainer must beat"],
];
const BAR = { width: 96, height: 14 };
const NO_FIGURE = { mean: null, low: null, high: null };

/** The table of figures: parts of the samples to choose from, columns to sort by. */
function showFigures(host, report) {
  const strata = report.tables.map((table) => table.stratum);
  const { table, show } = sortable(report.columns, report.tables[0], (shown) => `${shown.samples} samples`);
  const stratum = (name) => show(report.tables.find((one) => one.stratum === name));
  host.append(
    html("h2", {}, "Figures"),
    html("div", { class: "controls" },
      choice("samples", "stratum", strata, strata[0], stratum),
      chip("intervals as numbers", false, (on) => table.classList.toggle("numbers", on))),
    scrolling(table, "table of figures"),
    meanings(report.columns));
}

/** Tables of their own, each under its title and with what there is to say about it. */
function showFurther(host, report) {
  for (const { title, note, columns, table } of report.further) {
    const found = sortable(columns, table, (shown) => `${shown.rows.length} methods`);
    host.append(html("h2", {}, title), html("p", { class: "soft" }, note), scrolling(found.table, title), meanings(columns) ?? "");
  }
}

function scrolling(table, label) {
  return html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}

/** An HTML table whose heads sort it, and a function that shows other rows in it. */
function sortable(columns, first, captionOf) {
  const state = { table: first, key: columns[0]?.key ?? null, descending: columns[0]?.better !== "lower" };
  const table = html("table", {});
  const caption = html("caption", {});
  const draw = () => {
    caption.replaceChildren(captionOf(state.table));
    const rows = PARTS.map(([kind, title]) => part(columns, state, kind, title));
    table.replaceChildren(caption, head(columns, state, sortBy), ...rows.filter((body) => body !== null));
  };
  const sortBy = (key, better) => {
    const again = state.key === key;
    state.descending = again ? !state.descending : key !== null && better !== "lower";
    state.key = key;
    draw();
    table.querySelector("[aria-sort] button").focus();
  };
  const show = (other) => {
    state.table = other;
    draw();
  };
  draw();
  return { table, show };
}

/** Two rows: groups of columns, and the columns. */
function head(columns, state, sortBy) {
  const runs = [];
  for (const column of columns) {
    if (runs.at(-1)?.group === column.group) runs.at(-1).count += 1;
    else runs.push({ group: column.group, count: 1 });
  }
  const groups = runs.map(({ group, count }) => html("th", { colspan: count, scope: "colgroup", class: "first" }, group));
  const method = { key: null, label: "method", better: null, help: "" };
  const cells = [method, ...columns].map((column, i) => headCell(column, columns[i - 2], state, sortBy));
  return html("thead", {}, html("tr", { class: "groups" }, html("td", {}), groups), html("tr", {}, cells));
}

function headCell(column, before, state, sortBy) {
  const sorted = state.key === column.key && (state.descending ? "descending" : "ascending");
  const aim = { higher: "higher is better", lower: "lower is better" }[column.better];
  const title = [column.help, aim].filter(Boolean).join("; ");
  const classes = column.key === null ? "method" : column.group !== before?.group ? "first" : "";
  return html("th", { scope: "col", class: classes, "aria-sort": sorted },
    html("button", { type: "button", title, onclick: () => sortBy(column.key, column.better) },
      column.label,
      column.better && html("span", { class: "aim", "aria-label": aim }, column.better === "higher" ? "↑" : "↓")));
}

/** Rows of one kind, sorted among themselves; null where there are none. */
function part(columns, state, kind, title) {
  const rows = state.table.rows.filter((row) => row.kind === kind).sort(order(state));
  if (!rows.length) return null;
  const scales = columns.map((column) => scaleOf(column, state.table.rows));
  const heading = title && html("tr", { class: "part" },
    html("th", { scope: "rowgroup", colspan: columns.length + 1 }, html("span", {}, title)));
  const lines = rows.map((row) =>
    html("tr", {}, methodCell(row), columns.map((column, i) => cell(row, column, columns[i - 1], scales[i]))));
  return html("tbody", { class: kind }, heading, lines);
}

/** What is not known comes last, whatever the direction. */
function order({ key, descending }) {
  const sign = descending ? -1 : 1;
  if (key === null) return (a, b) => sign * a.method.localeCompare(b.method);
  return (a, b) => {
    const [x, y] = [meanOf(a, key), meanOf(b, key)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y);
  };
}

function meanOf(row, key) {
  return row.figures[key]?.mean ?? null;
}

/** How a column writes and draws its figures, and which of the explainers' is best. */
function scaleOf(column, rows) {
  const figures = rows.map((row) => row.figures[column.key]).filter(Boolean);
  const decimals = decimalsFor(figures.map((figure) => figure.mean));
  const ends = figures.flatMap(({ mean, low, high }) => [mean, low, high]).filter((value) => value !== null);
  const rivals = rows.filter((row) => row.kind === "explainer").map((row) => meanOf(row, column.key));
  const known = rivals.filter((value) => value !== null);
  const best = { higher: Math.max(...known), lower: Math.min(...known) }[column.better];
  return { decimals, best, x: linear([Math.min(0, ...ends), Math.max(0, ...ends)], [1, BAR.width - 1]) };
}

function methodCell(row) {
  return html("th", { scope: "row", class: "method" },
    html("span", { class: "name" }, row.method,
      row.class_agnostic && html("span", { class: "tag", title: "ignores which answer is explained" }, "class-agnostic")),
    row.note && html("div", { class: "note" }, row.note));
}

function cell(row, column, before, { decimals, best, x }) {
  const figure = row.figures[column.key] ?? NO_FIGURE;
  const { mean, low, high } = figure;
  const isBest = row.kind === "explainer" && mean !== null && mean === best;
  const classes = [column.group !== before?.group && "first", isBest && "best", mean === null && "missing"];
  const title = `${row.method}, ${column.label}: ${withInterval(figure, decimals)}${isBest ? ", best" : ""}`;
  return html("td", { class: classes.filter(Boolean).join(" "), title },
    column.bar && mean !== null && bar(figure, x),
    html("span", { class: "value" }, numeral(mean, decimals)),
    low !== null && high !== null && html("span", { class: "interval" }, interval(low, high, decimals)));
}

/** From zero to the mean, with the interval as a line over it. */
function bar({ mean, low, high }, x) {
  const middle = BAR.height / 2;
  const [left, right] = [Math.min(x(0), x(mean)), Math.max(x(0), x(mean))];
  const whisker = low !== null && high !== null &&
    svg("path", { class: "whisker", d: `M${x(low)} ${middle}H${x(high)}M${x(low)} 4v6M${x(high)} 4v6` });
  return svg("svg", { class: "bar", width: BAR.width, height: BAR.height, "aria-hidden": "true" },
    svg("rect", { x: left, y: 3, width: right - left, height: BAR.height - 6 }),
    svg("path", { class: "zero", d: `M${x(0)} 0V${BAR.height}` }),
    whisker);
}

function meanings(columns) {
  const told = columns.filter((column) => column.help);
  if (!told.length) return null;
  const entries = told.flatMap((column) => [
    html("dt", {}, `${column.group}: ${column.label}`), html("dd", {}, column.help)]);
  return html("details", {}, html("summary", {}, "what the columns are"), html("dl", {}, entries));
}
