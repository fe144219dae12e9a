const SHOWN_AT_FIRST = 3;
const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

const KINDS = { // what a report is about
  answers: {
    verdicts: "answers", target: "answer", search: "search questions and answers",
    fields: { prediction: "prediction", answer: "answer", type: "answer_type", id: "id" },
  },
  captions: { verdicts: "captions", target: "word", search: "search captions", fields: { given: "answer", id: "id" } },
};

/** Samples to browse: filters, a list, and one sample with the chosen methods side by side. */
function showGallery(host, report) {
  if (!report.gallery.length) return;
  const methods = [...new Set(report.gallery.flatMap((sample) => Object.keys(sample.explanations)))];
  const state = {
    verdict: "all", type: "", text: "", chosen: new Set(firstMethods(methods, report)), current: report.gallery[0], listed: [],
  };
  const heat = heatScale(report.heat);
  const list = html("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": "samples" });
  const detail = html("article", { "aria-live": "polite" });
  const count = html("output", { class: "soft count" });
  const show = () => showSample(detail, state, methods, heat, report);
  const select = (sample) => {
    state.current = sample;
    markCurrent(list, state);
    show();
  };
  const filter = () => {
    state.listed = report.gallery.filter((sample) => matches(sample, state));
    count.replaceChildren(`${state.listed.length} of ${report.gallery.length}`);
    list.replaceChildren(...state.listed.map((sample) => listEntry(sample, report, select)));
    select(state.listed.includes(state.current) ? state.current : state.listed[0] ?? null);
  };
  const browser = html("div", { class: "browser", onkeydown: (event) => step(event, state, select) }, list, detail);
  host.append(
    html("h2", {}, "Samples"),
    html("div", { class: "controls" }, filterControls(report, state, filter), count),
    html("div", { class: "controls" }, opacityControl(browser), heatLegend(isSigned(report), heat, KINDS[report.kind].target)),
    html("div", { class: "legend", role: "group", "aria-label": "explainers side by side" },
      methods.map((method) => chip(method, state.chosen.has(method), (on) => {
        if (on) state.chosen.add(method);
        else state.chosen.delete(method);
        show();
      }))),
    browser);
  filter();
}

/** The best explainers of the table's first column. */
function firstMethods(methods, report) {
  const rows = report.tables[0].rows.filter((row) => row.kind === "explainer" && methods.includes(row.method));
  const column = report.columns[0];
  const ranked = column ? rows.sort(order({ key: column.key, descending: column.better !== "lower" })) : rows;
  const names = ranked.map((row) => row.method);
  return (names.length ? names : methods).slice(0, SHOWN_AT_FIRST);
}

function isSigned(report) {
  const scores = ({ patches, words, steps }) =>
    [...patches.flat(), ...words.map(([, score]) => score), ...steps.flatMap((step) => [...step.patches.flat(), ...step.scores])];
  return report.gallery.some((sample) =>
    Object.values(sample.explanations).some((found) => scores(found).some((score) => score < 0)));
}

function matches(sample, { verdict, type, text }) {
  const wanted = text.toLowerCase();
  return (
    (verdict === "all" || sample.right === (verdict === "right")) &&
    (type === "" || sample.answer_type === type) &&
    [sample.question, sample.answer, sample.prediction, sample.id].some((field) => field.toLowerCase().includes(wanted))
  );
}

function filterControls(report, state, filter) {
  const change = (name) => (value) => {
    state[name] = value;
    filter();
  };
  const { verdicts, search: hint } = KINDS[report.kind];
  const types = [...new Set(report.gallery.map((sample) => sample.answer_type))].sort();
  const options = [html("option", { value: "" }, "all answer types"), ...types.map((type) => html("option", { value: type }, type))];
  const select = html("select", { "aria-label": "answer type", onchange: () => change("type")(select.value) }, options);
  const search = html("input", {
    type: "search", placeholder: hint, "aria-label": hint,
    oninput: () => change("text")(search.value),
  });
  const judged = report.gallery.some((sample) => sample.right !== null);
  return [judged && choice(verdicts, "verdict", ["all", "right", "wrong"], state.verdict, change("verdict")), types.length > 1 && select, search];
}

function opacityControl(browser) {
  const told = html("output", {});
  const slider = html("input", { type: "range", min: 0, max: 100, step: 5, value: 85, oninput: () => apply() });
  const apply = () => {
    browser.style.setProperty("--opacity", slider.value / 100);
    told.replaceChildren(`${slider.value} %`);
  };
  apply();
  return html("label", { class: "opacity" }, "heat map over image", slider, told);
}

function listEntry(sample, report, select) {
  return html("div", { role: "option", id: `sample-${report.gallery.indexOf(sample)}`, onclick: () => select(sample) },
    html("img", { src: sample.image, alt: "", loading: "lazy" }),
    html("span", {}, sample.question),
    verdictMark(sample));
}

function verdictMark(sample) {
  if (sample.right === null) return null;
  const verdict = sample.right ? "right" : "wrong";
  return html("span", { class: `verdict ${verdict}`, role: "img", title: verdict, "aria-label": verdict }, sample.right ? "✓" : "✗");
}

/** Marks the current sample and scrolls within the list, never the page. */
function markCurrent(list, state) {
  state.listed.forEach((sample, i) => list.children[i].setAttribute("aria-selected", sample === state.current));
  const entry = list.children[state.listed.indexOf(state.current)];
  if (!entry) {
    list.removeAttribute("aria-activedescendant");
    return;
  }
  list.setAttribute("aria-activedescendant", entry.id);
  const [above, below] = [entry.offsetTop, entry.offsetTop + entry.offsetHeight];
  if (above < list.scrollTop) list.scrollTop = above;
  else if (below > list.scrollTop + list.clientHeight) list.scrollTop = below - list.clientHeight;
}

/** Arrow keys, Home and End go through the listed samples. */
function step(event, state, select) {
  if (!(event.key in STEPS) || !state.listed.length) return;
  event.preventDefault();
  const place = state.listed.indexOf(state.current) + STEPS[event.key];
  select(state.listed[Math.min(Math.max(place, 0), state.listed.length - 1)]);
}

function showSample(detail, state, methods, heat, report) {
  const sample = state.current;
  if (sample === null) {
    detail.replaceChildren(html("p", { class: "soft" }, "No sample matches."));
    return;
  }
  const shown = methods.filter((method) => state.chosen.has(method) && Object.hasOwn(sample.explanations, method));
  const plain = html("figure", { class: "card" },
    html("figcaption", {}, "image"), html("div", { class: "picture" }, html("img", { src: sample.image, alt: "" })));
  const shows = []; // what each card does when the word of a place is pointed at
  const pointable = pointableWords((place) => shows.forEach((show) => show(place)));
  const cards = shown.map((method) => card(method, sample, heat, report.heat.light, pointable, shows));
  const title = captionOf(sample).map((word, i) => pointable(word, i, 0));
  shows.push((place) => markPointed(title, place));
  detail.replaceChildren(
    html("h3", {}, title.length ? spaced(title) : sample.question), answerLine(sample, KINDS[report.kind].fields),
    title.length ? html("p", { class: "soft hint" }, "Point at a word to see its map, and which words before it matter to it.") : "",
    html("div", { class: "cards" }, plain, cards));
}

function answerLine(sample, fields) {
  return html("p", { class: "answers" }, verdictMark(sample),
    Object.entries(fields).map(([name, key]) => html("span", {}, html("span", { class: "soft" }, `${name} `), html("b", {}, sample[key]))));
}

/** One method on one sample: heat over the image, words, how much of the relevance is on the image. */
function card(method, sample, heat, light, pointable, shows) {
  const { patches, words, image_share: share, steps } = sample.explanations[method];
  const image = html("img", { src: sample.image, alt: "" });
  const canvas = html("canvas", { role: "img", "aria-label": `relevance of the image by ${method}` });
  const spans = words.map(([word], i) => (steps.length ? pointable(word, i, -1) : html("span", {}, word)));
  const decoded = patches.length ? image.decode() : null;
  const show = (place) => {
    const step = place === null ? { patches, scores: words.map(([, score]) => score) } : steps[place];
    decoded?.then(() => paintHeat(canvas, image, step.patches, sample.window, heat, light));
    colourWords(spans, step.scores, heat);
    markPointed(spans, place);
  };
  show(null);
  if (steps.length) shows.push(show);
  return html("figure", { class: "card", "data-method": method },
    html("figcaption", {}, method, share !== null && shareBar(share)),
    html("div", { class: "picture" }, image, patches.length > 0 && canvas),
    words.length > 0 && html("p", { class: "words" }, spaced(spans)));
}

function shareBar(share) {
  const percent = Math.round(100 * share);
  const inner = html("span", {});
  inner.style.setProperty("--share", `${percent}%`);
  const title = `of the positive relevance ${percent} % is on the image, ${100 - percent} % on the words`;
  return html("span", { class: "share", title }, `image ${percent} %`, html("span", { class: "gauge", "aria-hidden": "true" }, inner));
}
