// The two views of the page to try models: an answer with its maps, and what removing patches does to it.
// `element`, `props` and `watch` are gradio's; a view's values come as JSON in `props.value`.

const opacity = { value: 85 };

function drawView() {
  const root = element.querySelector(".view");
  const values = props.value ? JSON.parse(props.value) : null;
  root.hidden = values === null;
  if (values === null) root.replaceChildren();
  else if (values.notice) root.replaceChildren(html("p", { class: "notice", role: "alert" }, values.notice));
  else if (values.charts) showRemoval(root, values);
  else showAnswer(root, values);
}

function showAnswer(root, { sample, asks, cut, target, answers, errors, heat: table }) {
  const heat = heatScale(table);
  const methods = Object.keys(sample.explanations);
  const shows = [];
  const pointable = pointableWords((place) => shows.forEach((show) => show(place)));
  const title = captionOf(sample).map((word, i) => pointable(word, i, 0));
  const cards = methods.map((method) => card(method, sample, heat, table.light, pointable, shows));
  shows.push((place) => markPointed(title, place));
  const plain = html("figure", { class: "card" },
    html("figcaption", {}, "picture"), html("div", { class: "picture" }, html("img", { src: sample.image, alt: "the picture" })));
  const scale = heatLegend(isSigned({ gallery: [sample] }), heat, asks ? "answer" : "word");
  root.replaceChildren(
    html("p", { class: "soft asked" }, asks ? sample.question : "The model writes"),
    title.length ? html("h3", { class: "said" }, spaced(title)) : html("h3", { class: "said" }, sample.prediction),
    answers.length ? html("ul", { class: "bars", "aria-label": "likeliest answers" }, answers.map(answerBar)) : "",
    asks ? html("p", { class: "soft hint" }, "Why “", html("b", {}, target), "”: the patches and words that matter to it.")
      : html("p", { class: "soft hint" }, "Point at a word to see what of the picture it rests on, and on which words before it."),
    cut ? html("p", { class: "notice" }, "The model reads no more than the beginning of so long a question: the words below.") : "",
    html("div", { class: "controls" }, keptOpacity(root), scale),
    html("div", { class: "cards" }, plain, cards, Object.entries(errors).map(failure)));
}

function answerBar([answer, probability], i) {
  const bar = html("span", { class: "bar", "aria-hidden": "true" }, html("span", {}));
  bar.firstChild.style.setProperty("--share", `${100 * probability}%`);
  return html("li", { class: i ? "soft" : "first-answer" },
    html("span", { class: "answer" }, answer || "(nothing)"), bar, html("span", { class: "percent" }, percent(probability)));
}

function percent(probability) {
  return probability > 0 && probability < 0.001 ? "< 0.1 %" : `${(100 * probability).toFixed(1)} %`;
}

function failure([method, sentence]) {
  return html("figure", { class: "card failed" }, html("figcaption", {}, method), html("p", { class: "notice" }, sentence));
}

/** The slider of reports, which stays where it was when the next answer comes. */
function keptOpacity(root) {
  const control = opacityControl(root);
  const slider = control.querySelector("input");
  slider.value = opacity.value;
  slider.dispatchEvent(new Event("input"));
  slider.addEventListener("input", () => (opacity.value = slider.value));
  return control;
}

function showRemoval(root, { shares, figure, probability, charts, by, done }) {
  const methods = charts[0].curves.map((curve) => curve.method);
  const state = { hidden: new Set(), styles: new Map(methods.map((name, i) => [name, `hue-${i % HUES} dash-${Math.floor(i / HUES)}`])) };
  const known = charts.flatMap((chart) => chart.curves.flatMap((curve) => curve.mean)).filter((value) => value !== null);
  const values = probability ? [0, 1] : [Math.min(...known, -1), Math.max(...known, 0)];
  const grid = html("div", { class: "charts" }, charts.map(() => html("figure", {})));
  const legend = html("div", { class: "legend" }, methods.map((name) =>
    html("span", { class: "chip" }, svg("svg", { width: 22, height: 8, class: state.styles.get(name), "aria-hidden": "true" },
      svg("path", { class: "line", d: "M0 4H22" })), name)));
  root.replaceChildren(
    html("p", { class: "soft hint" }, "A good map names the patches that matter: without them the answer is lost at once, without the others it stays. ",
      html("span", { class: "state", role: "status" }, done ? "All patches are removed." : "Removing …")),
    legend, grid,
    ...charts.map((chart) => html("section", { class: "strip-of" },
      html("h4", {}, chart.title, methods.length > 1 && html("span", { class: "soft" }, ` by ${by}`)),
      html("div", { class: "frames" }, chart.strip.map((shown) => frame(shown, probability))))));
  const light = (method) => lightUp(root, method);
  charts.forEach((chart, i) => {
    const unknown = shares.map(() => null);
    const curves = chart.curves.map((curve) => ({ ...curve, low: unknown, high: unknown }));
    drawChart(grid.children[i], { title: chart.title, figure, shares, curves, better: i ? "higher" : "lower", axis: "patches removed, %" }, values, state, light);
  });
}

function frame({ share, picture, said }, short) {
  return html("figure", { class: "frame" },
    html("img", { src: picture, alt: `${Math.round(100 * share)} % of the patches removed` }),
    html("figcaption", {}, html("span", { class: "soft" }, `${Math.round(100 * share)} % removed`), html(short ? "b" : "span", {}, said || "(nothing)")));
}

drawView();
watch("value", drawView);
