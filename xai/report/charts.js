const MARGIN = { left: 42, right: 12, top: 8, bottom: 34 };
const CHART_HEIGHT = 250;
const HUES = 8; // series colours in the style sheet; further methods repeat them dashed, then dotted

/** Curves of all methods; the legend chooses which, and both it and the pointer bring one to the front. */
function showCurves(host, report) {
  if (!report.charts.length) return;
  const figures = [...new Set(report.charts.map((chart) => chart.figure))];
  const methods = [...new Set(report.charts.flatMap((chart) => chart.curves.map((curve) => curve.method)))];
  const hidden = report.shown.length ? methods.filter((method) => !report.shown.includes(method)) : [];
  const state = { figure: figures[0], hidden: new Set(hidden), styles: seriesStyles(methods, report) };
  const grid = html("div", { class: "charts" });
  const legend = html("div", { class: "legend", role: "group", "aria-label": "methods shown" });
  const light = (method) => lightUp(host, method);
  const draw = () => drawCharts(grid, report, state, light);
  const drawAll = () => {
    legend.replaceChildren(...legendChips(methods, state, light, draw), ...allOrNone(methods, state, drawAll));
    draw();
  };
  host.append(
    html("h2", {}, "Curves"),
    html("div", { class: "controls" }, figures.length > 1 && choice("figure", "figure", figures, state.figure, (figure) => {
      state.figure = figure;
      draw();
    })),
    legend, grid);
  drawAll();
  new ResizeObserver(draw).observe(grid);
}

/** The classes by which the style sheet tells methods apart. */
function seriesStyles(methods, report) {
  const baselines = new Set(report.tables[0].rows.filter((row) => row.kind === "baseline").map((row) => row.method));
  const styles = new Map();
  for (const method of methods.filter((name) => !baselines.has(name))) {
    styles.set(method, `hue-${styles.size % HUES} dash-${Math.floor(styles.size / HUES)}`);
  }
  methods.filter((name) => baselines.has(name)).forEach((name, i) => styles.set(name, `grey dash-${i}`));
  return styles;
}

function legendChips(methods, state, light, draw) {
  return methods.map((method) => {
    const line = svg("svg", { width: 22, height: 8, class: state.styles.get(method), "aria-hidden": "true" },
      svg("path", { class: "line", d: "M0 4H22" }));
    const toggle = (on) => {
      if (on) state.hidden.delete(method);
      else state.hidden.add(method);
      draw();
    };
    const listeners = { onpointerenter: () => light(method), onpointerleave: () => light(null) };
    return chip([line, method], !state.hidden.has(method), toggle, listeners);
  });
}

function allOrNone(methods, state, redraw) {
  const button = (label, hidden) => html("button", { type: "button", class: "plain", onclick: () => {
    state.hidden = new Set(hidden);
    redraw();
  } }, label);
  return [button("all", []), button("none", methods)];
}

function drawCharts(grid, report, state, light) {
  const charts = report.charts.filter((chart) => chart.figure === state.figure);
  const ends = charts.flatMap((chart) => chart.curves.flatMap(({ mean, low, high }) => [...mean, ...low, ...high]));
  const known = ends.filter((value) => value !== null);
  const values = [Math.min(...known), Math.max(...known)];
  if (grid.children.length !== charts.length) grid.replaceChildren(...charts.map(() => html("figure", {})));
  charts.forEach((chart, i) => drawChart(grid.children[i], chart, values, state, light));
}

function drawChart(host, chart, values, state, light) {
  const width = host.clientWidth || 400;
  const axes = {
    x: linear([Math.min(...chart.shares), Math.max(...chart.shares)], [MARGIN.left, width - MARGIN.right]),
    y: linear(values, [CHART_HEIGHT - MARGIN.bottom, MARGIN.top]),
    width,
  };
  const curves = chart.curves.filter((curve) => !state.hidden.has(curve.method));
  const aim = { higher: ", higher is better", lower: ", lower is better" }[chart.better] ?? "";
  const tip = html("div", { class: "tip", hidden: true });
  const marker = svg("circle", { r: 3.5, class: "marker", visibility: "hidden" });
  const picture = svg("svg", { width, height: CHART_HEIGHT, role: "img", "aria-label": `${chart.title}: ${chart.figure}` },
    scales(chart, values, axes),
    curves.map((curve) => drawCurve(chart.shares, curve, axes, state.styles.get(curve.method))),
    marker);
  const point = (event) => {
    const found = nearest(picture, event, chart.shares, curves, axes);
    light(found?.curve.method ?? null);
    pointOut(tip, marker, found, chart, axes);
  };
  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerleave", () => {
    light(null);
    pointOut(tip, marker, null, chart, axes);
  });
  host.replaceChildren(html("figcaption", {}, chart.title, html("span", { class: "soft" }, chart.figure + aim)), picture, tip);
}

/** Grid lines, ticks and what the axes are. */
function scales(chart, values, { x, y, width }) {
  const bottom = CHART_HEIGHT - MARGIN.bottom;
  const steps = ticks(values[0], values[1], 5);
  const decimals = Math.max(0, -Math.floor(Math.log10(steps[1] - steps[0] || 1)));
  const rows = steps.map((value) => svg("g", {},
    svg("path", { class: "grid", d: `M${MARGIN.left} ${y(value)}H${width - MARGIN.right}` }),
    svg("text", { x: MARGIN.left - 6, y: y(value) + 3.5, "text-anchor": "end" }, numeral(value, decimals))));
  const columns = ticks(Math.min(...chart.shares), Math.max(...chart.shares), 5).map((share) =>
    svg("text", { x: x(share), y: bottom + 14, "text-anchor": "middle" }, `${Math.round(100 * share)}`));
  const name = svg("text", { x: width - MARGIN.right, y: bottom + 29, "text-anchor": "end" }, chart.axis ?? "tokens removed, %");
  return svg("g", { class: "axes" }, rows, columns, name);
}

/** Round numbers within a range, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/** The band of its interval and the line of its mean, broken where the curve is undefined. */
function drawCurve(shares, curve, { x, y }, style) {
  const at = (values) => (i) => `${x(shares[i])} ${y(values[i])}`;
  const lines = runs(curve.mean).map((run) => `M${run.map(at(curve.mean)).join("L")}`);
  const bands = runs(curve.low.map((low, i) => (curve.high[i] === null ? null : low))).map((run) =>
    `M${run.map(at(curve.low)).join("L")}L${run.toReversed().map(at(curve.high)).join("L")}Z`);
  return svg("g", { class: `curve ${style}`, "data-method": curve.method },
    svg("path", { class: "band", d: bands.join("") }), svg("path", { class: "line", d: lines.join("") }));
}

/** Positions that follow each other and have values. */
function runs(values) {
  const found = [];
  values.forEach((value, i) => {
    if (value === null) return;
    if (i > 0 && values[i - 1] !== null) found.at(-1).push(i);
    else found.push([i]);
  });
  return found;
}

/** The step nearest to the pointer, and of the curves there the nearest. */
function nearest(picture, event, shares, curves, { x, y }) {
  const box = picture.getBoundingClientRect();
  const [left, top] = [event.clientX - box.left, event.clientY - box.top];
  const closest = (items, distance) => items.reduce((a, b) => (distance(b) < distance(a) ? b : a));
  const step = closest(shares.map((_, i) => i), (i) => Math.abs(x(shares[i]) - left));
  const known = curves.filter((curve) => curve.mean[step] !== null);
  if (!known.length) return null;
  const curve = closest(known, (one) => Math.abs(y(one.mean[step]) - top));
  return { curve, step };
}

function pointOut(tip, marker, found, chart, { x, y, width }) {
  tip.hidden = found === null;
  marker.setAttribute("visibility", found === null ? "hidden" : "visible");
  if (found === null) return;
  const { curve, step } = found;
  const [left, top] = [x(chart.shares[step]), y(curve.mean[step])];
  const figure = { mean: curve.mean[step], low: curve.low[step], high: curve.high[step] };
  marker.setAttribute("cx", left);
  marker.setAttribute("cy", top);
  const share = html("span", { class: "soft" }, `${Math.round(100 * chart.shares[step])} % removed`);
  tip.replaceChildren(html("b", {}, curve.method), share, withInterval(figure, 3));
  tip.classList.toggle("left", left > width / 2);
  tip.style.setProperty("--x", `${left}px`);
  tip.style.setProperty("--y", `${top}px`);
}

/** Brings one method's curves to the front in all charts; null: all are equal again. */
function lightUp(host, method) {
  for (const curve of host.querySelectorAll(".curve")) {
    curve.classList.toggle("faded", method !== null && curve.dataset.method !== method);
    curve.classList.toggle("lit", curve.dataset.method === method);
  }
}
